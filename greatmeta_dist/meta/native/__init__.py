"""What users' rows go through in C, user by user, for processors without a GPU.

torch starts some hundred operations in an inner step, each on all users' rows, which have left the
processor's cache by the next. ``row_layers.c`` takes one user's rows through a whole step, or a
pass over its query, while they are there. Encoder and FiLM see one row a user and stay torch's.
``adapt.py`` has the torch form of it all, which runs wherever this one does not.
"""
