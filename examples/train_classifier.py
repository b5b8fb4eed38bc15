"""Trains a classifier on the feature store, as ds_user, without a look into the future.

It learns from the clients that were there on a day, with their features of that day, and is tested on the clients that
came later, with their features of today: as the model would be used.
"""

import argparse

import pandas as pd  # type: ignore[import-untyped]
from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-not-found]
from sklearn.metrics import RocCurveDisplay, accuracy_score, roc_auc_score  # type: ignore[import-not-found]
from sqlalchemy import create_engine, make_url, text

FEATURES = ["attr_a", "attr_b", "scd_a", "scd_b"]

# The day by which four clients of five had come.
LAST_DAY_OF_TRAINING = text("""
    select percentile_disc(0.8) within group (order by first_day)
    from (select min(valid_from) as first_day from customer_activity group by idx) as clients
""")
THEN = text("select * from feature_store_as_of(:day)")
TODAY = text("select * from feature_store")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--url", default="postgresql://ds_user:ds_user@localhost:5432/companydata")
parser.add_argument("--picture", default="roc_curve.png")
arguments = parser.parse_args()

with create_engine(make_url(arguments.url).set(drivername="postgresql+psycopg2")).connect() as connection:
    day = connection.execute(LAST_DAY_OF_TRAINING).scalar_one()
    then = pd.read_sql(THEN, connection, params={"day": day}, dtype={"attr_b": "category"})
    today = pd.read_sql(TODAY, connection, dtype={"attr_b": "category"})
came_later = today[~today.idx.isin(then.idx)]

model = HistGradientBoostingClassifier(learning_rate=0.03, random_state=0).fit(then[FEATURES], then.label)
accuracy = accuracy_score(came_later.label, model.predict(came_later[FEATURES]))
majority = (came_later.label == then.label.mode()[0]).mean()
auc = roc_auc_score(came_later.label, model.predict_proba(came_later[FEATURES])[:, 1])

print(f"trained on {len(then):,} clients as of {day}, tested on the {len(came_later):,} that came later")
print(f"accuracy {accuracy:.3f}; always the label that was more frequent {majority:.3f}; area under the ROC {auc:.3f}")

curve = RocCurveDisplay.from_estimator(model, came_later[FEATURES], came_later.label, name="classifier")
curve.ax_.set_title("Clients that came after the training")
curve.figure_.savefig(arguments.picture, dpi=70, bbox_inches="tight")
