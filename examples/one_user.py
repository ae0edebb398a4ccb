"""What a new user will like: ``python examples/one_user.py RUN ITEM=RATING [ITEM=RATING ...]``.

Items are named as in the log. Prints the ten items of the catalogue that the run predicts the
highest ratings for, among those that the user has not rated.
"""

import argparse

from greatmeta_dist import Predictor

parser = argparse.ArgumentParser()
parser.add_argument("run")
parser.add_argument("rating", nargs="+", metavar="ITEM=RATING")
options = parser.parse_args()
pairs = (word.rpartition("=") for word in options.rating)
ratings = {item: float(rating) for item, _, rating in pairs}

for item, rating in Predictor.load(options.run).recommend(ratings):
    print(f"{item}  {rating:.2f}")
