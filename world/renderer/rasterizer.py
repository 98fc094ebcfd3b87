"""Rasterisation with ``warp`` of a textured mesh with hair on one CPU core: z-buffer, shadow map and shading.

Camera space: x to the image's right, y down, z away from the camera; lengths in metres.
"""

from typing import Any

import cv2
import numpy as np
import warp as wp

from world.renderer.kernels import NOTHING, add_normals, measure_openness, project, rasterize, shade, spread, transform
from world.renderer.scene import Light

wp.config.quiet = True
SHADOW_SIDE = 256  # side in texels of the shadow map, which spans the head
RAYS = 96  # number of rays from each vertex by which openness is estimated


def openness(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Ambient visibility (V,) in 0..1 of the vertices (V, 3) of a mesh; low in eye sockets, nostrils and creases.

    It is the cosine-weighted fraction of rays above the surface that hit nothing nearby. ``faces`` (F, 3).
    """
    points, corners = as_array(vertices, wp.vec3), as_array(faces.reshape(-1), int)  # (V,), (F * 3,)
    normals, out = wp.zeros(len(vertices), dtype=wp.vec3, device="cpu"), empty(len(vertices), float)
    launch(add_normals, len(faces), points, corners, normals)
    k = np.arange(RAYS) + 0.5
    height, turn = 1 - 2 * k / RAYS, np.pi * (1 + 5**0.5) * k  # a Fibonacci lattice on the sphere
    radius = np.sqrt(1 - height**2)
    rays = np.stack([np.cos(turn) * radius, np.sin(turn) * radius, height], -1)  # (RAYS, 3)
    mesh = wp.Mesh(points, corners)  # has to exist while the kernel uses its id
    launch(measure_openness, len(vertices), mesh.id, points, normals, as_array(rays, wp.vec3), out)
    return out.numpy().copy()


class Rasterizer:
    """A mesh with moving vertices: a surface of S vertices, and strands of hair with H points, drawn as ribbons.

    The mesh has S + 2 H vertices: those of the surface, one edge of all ribbons, and the other edge. ``faces`` (F, 3):
    triangles, of which the first ``solid`` belong to the surface. ``uv`` (F, 3, 2): texture coordinates in 0..1.
    ``texture`` (rows, columns, 4) float32: linear RGB and gloss. ``openness`` (S,): ambient visibility. ``tangents``
    and ``normals`` (H, 3) and ``shape`` (H, 2), half width in metres and openness, describe the strands.
    """

    def __init__(
        self,
        faces: np.ndarray,
        solid: int,
        uv: np.ndarray,
        texture: np.ndarray,
        openness: np.ndarray,
        tangents: np.ndarray,
        normals: np.ndarray,
        shape: np.ndarray,
    ):
        self.count, self.solid, self.surface = len(faces), solid, len(openness)
        self.faces, self.uv = as_array(faces.reshape(-1), int), as_array(uv.reshape(-1, 2), wp.vec2)  # (F * 3,)
        # Every third triangle of a ribbon is enough for the shadow map.
        self.shadow_faces = as_array(np.concatenate([faces[:solid], faces[solid::3]]).reshape(-1), int)  # (F' * 3,)
        self.texture = as_array(texture, wp.vec4)
        self.tangents, self.facing, self.shape = (
            as_array(values, kind) for values, kind in ((tangents, wp.vec3), (normals, wp.vec3), (shape, wp.vec2))
        )
        total = len(openness) + 2 * len(tangents)
        self.points, self.normals, self.screen = (empty(total, wp.vec3) for _ in range(3))
        self.along = as_array(np.pad(openness[:, None], ((0, total - len(openness)), (3, 0))), wp.vec4)
        self.shadow = empty(SHADOW_SIDE**2, wp.int64)

    def colour(self, rows: slice, columns: slice, rgb: np.ndarray) -> None:
        """Fill a block of the texture with the linear RGB colour ``rgb`` (3,)."""
        self.texture.numpy()[rows, columns, :3] = rgb  # shares memory with warp on the CPU

    def render(
        self,
        vertices: np.ndarray,
        turn: np.ndarray,
        shown: np.ndarray,
        light: Light,
        focal: float,
        centre: np.ndarray,
        side: int,
        samples: int,
    ) -> np.ndarray:
        """Render an image (side, side, 4) of linear RGB and coverage in 0..1.

        ``vertices`` (S + H, 3): surface and points of strands in camera space. ``turn`` (3, 3): rotation from the
        model's axes to camera space. ``shown``: indices of the vertices that the shadow map must span. ``focal`` and
        ``centre`` (2,): focal length and principal point in pixels. ``samples``: samples along each edge of a pixel.
        """
        fine, focal, centre = side * samples, float(focal * samples), wp.vec2(*(centre * samples))
        self.points.numpy()[: self.surface] = vertices[: self.surface]
        self.normals.numpy()[: self.surface] = 0
        middle = as_array(vertices[self.surface :], wp.vec3)
        launch(
            spread, len(middle), middle, self.tangents, self.facing, self.shape, wp.mat33(*turn.ravel().tolist()),
            self.surface, self.points, self.normals, self.along,
        )  # fmt: skip
        launch(add_normals, self.solid, self.points, self.faces, self.normals)
        launch(project, len(self.points), self.points, focal, centre, self.screen)
        nearest = empty(fine * fine, wp.int64)
        nearest.fill_(NOTHING)
        launch(rasterize, self.count, self.screen, self.faces, fine, nearest)
        view = light_view(vertices[shown], light.directions[0])
        to_shadow = wp.mat44(*view.ravel().tolist())
        launch(transform, len(self.points), self.points, to_shadow, self.screen)
        self.shadow.fill_(NOTHING)
        launch(rasterize, self.shadow_faces.size // 3, self.screen, self.shadow_faces, SHADOW_SIDE, self.shadow)
        out = empty(fine * fine, wp.vec4)
        softness = float(light.softness * np.linalg.norm(view[0, :3]))  # in texels of the shadow map
        launch(
            shade, fine * fine, nearest, self.points, self.normals, self.along, self.faces, self.uv, self.texture,
            as_array(light.directions, wp.vec3), as_array(light.colours, wp.vec3), self.shadow, to_shadow, SHADOW_SIDE,
            softness, wp.vec3(*light.ambient), wp.vec3(*light.ground), focal, centre, fine, out,
        )  # fmt: skip
        picture = out.numpy().reshape(fine, fine, 4)  # (fine * fine,) of vec4 -> (fine, fine, 4)
        return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)  # (side, side, 4): mean of the samples


def launch(kernel: wp.Kernel, count: int, *inputs: Any) -> None:
    """Run a kernel with ``count`` threads on the CPU."""
    wp.launch(kernel, count, inputs=inputs, device="cpu")


def empty(count: int, kind: type) -> wp.array:
    """An uninitialised array of ``count`` elements of a warp type."""
    return wp.empty(count, dtype=kind, device="cpu")


def as_array(values: np.ndarray | list[np.ndarray], kind: type) -> wp.array:
    """An array of a warp type with the values of a NumPy array: int32 for int, float32 for other types."""
    dtype = np.int32 if kind is int else np.float32
    return wp.array(np.ascontiguousarray(values, dtype), dtype=kind, device="cpu")


def light_view(vertices: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """The transform (4, 4) from camera space to the shadow map: x and y in texels, depth in metres along the light.

    The map spans ``vertices`` (V, 3). ``towards`` (3,): direction to the light.
    """
    forward = -np.asarray(towards, np.float32) / np.linalg.norm(towards)
    right = np.cross(forward, [0, 1, 0] if abs(forward[1]) < 0.9 else [1, 0, 0])
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])  # (3, 3)
    seen = vertices @ axes.T  # (V, 3)
    low, high = seen.min(0), seen.max(0)
    texels = (SHADOW_SIDE - 2) / (high - low)[:2].max()
    view = np.eye(4, dtype=np.float32)
    view[:3, :3] = axes
    view[:2, :3] *= texels
    view[:2, 3] = 1 - low[:2] * texels
    view[2, 3] = -(low[2] + high[2]) / 2
    return view
