"""The former name of world/train_pose.py, which takes the same arguments."""

from world.train_pose import main

if __name__ == "__main__":
    main()
