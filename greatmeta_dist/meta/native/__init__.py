"""The inner loop's work on a support's rows in C, user by user, for processors without a GPU.

torch starts some hundred operations in an inner step, each on all users' rows, which have left the
processor's cache by the next. ``inner_step.c`` takes a user's rows through the whole step while
they are there. ``adapt.py`` has the torch form, which runs wherever this one does not.
"""
