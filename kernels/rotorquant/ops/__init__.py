"""The operations on packed keys and values: tensors and plain integers only.

Every op is a folder: `__init__.py` checks shapes and chooses the implementation, `reference.py`
is its specification in float32 torch, `kernel.py`, where there is one, the GPU kernel.
"""
