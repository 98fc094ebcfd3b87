"""Rendered people: heads of a parametric model, painted, lit and photographed. See scripts/render_faces.py."""
