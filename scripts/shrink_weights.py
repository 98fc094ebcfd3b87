"""The former name of scripts/convert_weights.py, which takes the same arguments."""

from scripts.convert_weights import main

if __name__ == "__main__":
    main()
