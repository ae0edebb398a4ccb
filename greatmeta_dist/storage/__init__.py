"""Folders on object stores: objects, a machine's copy of them, and who may write them."""
