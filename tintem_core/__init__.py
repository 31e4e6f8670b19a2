"""The method: views, teachers, mapping, students, training, evaluation, export.

Tensors and arrays in; tensors, arrays and bytes out. Knows nothing of Prefect, Zarr or paths.
"""

from tintem_core import _torchvision_guard as _torchvision_guard
