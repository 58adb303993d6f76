"""Soft masks: trimap, closed-form alpha with a prior, foreground colours. Letters: h, w = height, width in pixels.

Pictures are float64 [h, w, 3] in 0..1, sRGB as it is (layers are composited in sRGB bytes); alpha and trimap are float64 [h, w],
0..1.
"""

import cv2
import numpy as np
from scipy import ndimage


def trimap_of(mask: np.ndarray, inner: float, outer: float) -> np.ndarray:
    """1 where deeper than `inner` pixels inside the bool `mask` [h, w], 0 where further than `outer` outside, else 0.5.

    Thin parts keep their middle line as sure foreground: the band reaches at most 60 % of the local half thickness.
    """
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    size = 2 * int(np.ceil(inner)) + 1
    thickness = cv2.dilate(depth, np.ones((size, size), np.uint8))
    gap = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    trimap = np.full(mask.shape, 0.5)
    trimap[depth > np.minimum(inner, 0.6 * thickness)] = 1
    trimap[gap > outer] = 0
    trimap[ndimage.binary_dilation(trimap == 1) & (trimap == 0)] = 0.5
    return trimap


def closed_form_alpha(
    image: np.ndarray, trimap: np.ndarray, prior: np.ndarray, weight: float = 0.02, epsilon: float = 1e-5
) -> np.ndarray:
    """Alpha [h, w] that follows `image` in the band and leans on `prior` [h, w] where the picture says nothing.

    Minimises a' L a + weight * |a - prior|^2 over the unknown pixels; L is the matting Laplacian of Levin, Lischinski and Weiss,
    "A Closed-Form Solution to Natural Image Matting" (2008), eq. 5. The prior term is that of their eq. 12 with a soft mask.
    """
    from pymatting import cf_laplacian, cg, ichol
    from scipy import sparse

    unknown = (trimap == 0.5).ravel()
    if not unknown.any():
        return trimap.copy()
    laplacian = cf_laplacian(image, epsilon=epsilon, is_known=~unknown.reshape(trimap.shape))[unknown]
    among = laplacian[:, unknown] + weight * sparse.identity(int(unknown.sum()), format="csr")
    given = laplacian[:, ~unknown].dot(trimap.ravel()[~unknown])
    alpha = trimap.ravel().copy()
    alpha[unknown] = cg(among, weight * prior.ravel()[unknown] - given, M=ichol(among), rtol=1e-5)
    return np.clip(alpha, 0, 1).reshape(trimap.shape)


def edge_colours(image: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours [h, w, 3] of what is in front and of what is behind: image = alpha * front + (1 - alpha) * behind.

    Fast multi-level foreground estimation, Germer et al. (2020).
    """
    from pymatting import estimate_foreground_ml

    front, behind = estimate_foreground_ml(image, alpha, return_background=True)
    return np.clip(front, 0, 1), np.clip(behind, 0, 1)
