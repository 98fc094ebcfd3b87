"""Renderer of faces: heads of a parametric model with skin, hair, light and camera. See world/render_faces.py."""
