"""The former name of world/run_ablation.py, which takes the same arguments."""

from world.run_ablation import main

if __name__ == "__main__":
    main()
