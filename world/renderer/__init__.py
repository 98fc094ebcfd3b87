"""Rendered people: heads of a parametric model, painted, lit and photographed. See world/render_faces.py."""
