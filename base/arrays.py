"""Types of numpy arrays; what decodes greedily imports neither this nor numpy."""

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
