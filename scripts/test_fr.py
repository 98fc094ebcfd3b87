"""The former name of scripts/evaluate_fr.py, which takes the same arguments."""

from scripts.evaluate_fr import main

if __name__ == "__main__":
    main()
