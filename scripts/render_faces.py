"""The former name of world/render_faces.py, which takes the same arguments."""

from world.render_faces import main

if __name__ == "__main__":
    main()
