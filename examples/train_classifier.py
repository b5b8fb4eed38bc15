"""Trains a classifier on pairs of a client and a day, as ds_user, without a look into the future.

Each client is shown with its features of the day on which it came, as the model would meet it. The model learns from
the clients who joined first, and is tested on those who joined later. With the features of today it would have learned
from what the clients did afterwards: the script also prints the score that this pretends.
"""

import argparse
import io
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import psycopg
from matplotlib.figure import Figure  # type: ignore[import-not-found]
from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-not-found]
from sklearn.metrics import RocCurveDisplay, accuracy_score, roc_auc_score  # type: ignore[import-not-found]
from sqlalchemy import create_engine, make_url, text

FEATURES = ["attr_a", "attr_b", "scd_a", "scd_b"]
PART_TO_LEARN_FROM = 0.8

FIRST_DAYS = text("select idx, min(valid_from) as day from public.customer_activity group by idx order by day, idx")
TODAY = text("select * from public.feature_store")


def features_at(connection: psycopg.Connection[Any], pairs: pd.DataFrame) -> pd.DataFrame:
    """The features of each client (idx) on each day, in the order of the pairs."""
    arrays = ["{" + ",".join(pairs[column].astype(str)) + "}" for column in ("idx", "day")]
    of_pairs = "select day, (features).* from public.feature_store_at(%s::integer[], %s::date[])"
    query = f"copy ({of_pairs}) to stdout (format csv, header)"
    text = io.BytesIO()
    with connection.cursor() as cursor, cursor.copy(query, arrays) as rows:
        text.writelines(rows)
    text.seek(0)
    return pd.read_csv(text, parse_dates=["day"], keep_default_na=False, na_values=[""])


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--url", default="postgresql://ds_user:ds_user@localhost:5432/companydata")
parser.add_argument("--picture", default="roc_curve.png")
arguments = parser.parse_args()

# Others may create functions in schema public; with this path an unqualified name does not find them.
engine = create_engine(
    make_url(arguments.url).set(drivername="postgresql+psycopg"),
    connect_args={"options": "-c search_path=pg_catalog,pg_temp"},
)
with engine.connect() as connection:
    pairs = pd.read_sql(FIRST_DAYS, connection)
    driver: Any = connection.connection.driver_connection
    then = features_at(driver, pairs)
    today = pd.read_sql(TODAY, connection)

# A client without a profile or a label has no features.
then = then.dropna(subset="label").reset_index(drop=True)
of_today = then[["idx"]].merge(today, on="idx")
learned = int(len(then) * PART_TO_LEARN_FROM)

figure = Figure(figsize=(5, 4.5))
axes = figure.subplots()
scores = {}
for name, data in (("features of the day", then), ("features of today", of_today)):
    inputs = data[FEATURES].astype({"attr_b": "category"})
    model = HistGradientBoostingClassifier(learning_rate=0.03, random_state=0)
    model.fit(inputs[:learned], data.label[:learned])
    tested, chances = data.label[learned:], model.predict_proba(inputs[learned:])[:, 1]
    scores[name] = (accuracy_score(tested, chances > 0.5), roc_auc_score(tested, chances))
    RocCurveDisplay.from_predictions(tested, chances, name=name, ax=axes)

majority = (then.label[learned:] == then.label[:learned].mode()[0]).mean()
print(f"trained on the {learned:,} clients who joined first, tested on the {len(then) - learned:,} who joined later")
print(f"always the label that was more frequent: accuracy {majority:.3f}")
for name, (accuracy, auc) in scores.items():
    print(f"{name}: accuracy {accuracy:.3f}, area under the ROC {auc:.3f}")

axes.set_title("Clients who joined after the training data")
figure.savefig(arguments.picture, dpi=70, bbox_inches="tight")
