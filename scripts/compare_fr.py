"""The former name of scripts/compare.py, which takes the same arguments."""

from scripts.compare import main

if __name__ == "__main__":
    main()
