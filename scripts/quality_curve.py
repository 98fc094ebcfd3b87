"""The former name of world/quality_curve.py, which takes the same arguments."""

from world.quality_curve import main

if __name__ == "__main__":
    main()
