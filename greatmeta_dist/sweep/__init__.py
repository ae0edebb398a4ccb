"""``greatmeta train -m``: many trainings side by side, and a table of them."""
