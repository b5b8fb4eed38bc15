"""Plots monthly_sales by location, as ds_user: a line for each location that sells most, a band for the others."""

import argparse

import pandas as pd  # type: ignore[import-untyped]
from matplotlib import rcParams  # type: ignore[import-not-found]
from matplotlib.figure import Figure  # type: ignore[import-not-found]
from sqlalchemy import create_engine, make_url, text

LINES = 5

SALES = text("""
    select location, sale_month, sum(value)::double precision as value
    from public.monthly_sales
    group by location, sale_month
""")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--url", default="postgresql://ds_user:ds_user@localhost:5432/companydata")
parser.add_argument("--picture", default="monthly_sales.png")
arguments = parser.parse_args()

# Others may create functions in schema public; with this path an unqualified name does not find them.
engine = create_engine(
    make_url(arguments.url).set(drivername="postgresql+psycopg"),
    connect_args={"options": "-c search_path=pg_catalog,pg_temp"},
)
with engine.connect() as connection:
    sales = pd.read_sql(SALES, connection, parse_dates=["sale_month"])

# A month without a row sold nothing.
by_location = sales.pivot_table(index="sale_month", columns="location", values="value", fill_value=0)
by_location = by_location[by_location.sum().sort_values(ascending=False).index]

most, others = by_location.iloc[:, :LINES], by_location.iloc[:, LINES:]

rcParams["text.parse_math"] = False  # the locations are names, whatever signs they have
figure = Figure(figsize=(9, 3.6))
axes = figure.subplots()
low, high = others.quantile(0.1, axis="columns"), others.quantile(0.9, axis="columns")
axes.fill_between(by_location.index, low, high, color="lightgrey", label="80 % of the other locations")
axes.plot(most, marker="o", label=list(most.columns))
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
axes.set(title="Monthly sales by location", ylabel="value per month")
axes.yaxis.set_major_formatter("{x:,.0f}")
figure.savefig(arguments.picture, dpi=60, bbox_inches="tight")
print(f"{by_location.shape[1]} locations, {by_location.shape[0]} months, total {sales.value.sum():,.2f}")
