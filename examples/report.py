"""Writes one HTML page about what is loaded, as ds_user: months, sales per month, freshness, drift of the features.

The page needs no server and no network. Matplotlib draws the pictures as SVG, once for light and once for dark screens.
"""

import argparse
import html
import io
from collections.abc import Callable
from datetime import UTC, datetime

import matplotlib as mpl  # type: ignore[import-not-found]
import pandas as pd  # type: ignore[import-untyped]
from matplotlib.colors import ListedColormap  # type: ignore[import-not-found]
from matplotlib.figure import Figure  # type: ignore[import-not-found]
from matplotlib.patches import Patch  # type: ignore[import-not-found]
from matplotlib.style import context  # type: ignore[import-not-found]
from sqlalchemy import create_engine, make_url, text

STATES = {
    "loaded": "tab:green",
    "odd": "tab:olive",
    "waiting": "tab:cyan",
    "loading": "tab:blue",
    "held": "tab:orange",
    "rejected": "tab:red",
    "failed": "tab:brown",
    "missing": "lightgrey",
}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Company data</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem; }}
svg {{ width: 100%; height: auto; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid gray; }}
.dark {{ display: none; }}
@media (prefers-color-scheme: dark) {{ .light {{ display: none; }} .dark {{ display: block; }} }}
</style>
<h1>Company data</h1>
<p>As of {moment} UTC.</p>
<h2>Months</h2>{months}{problems}
<h2>Sales per month</h2>{sales}
<h2>Tables</h2>{freshness}
<h2>Features: the published files against the ones before</h2>{drift}
</html>
"""

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--url", default="postgresql://ds_user:ds_user@localhost:5432/companydata")
parser.add_argument("--page", default="report.html")
arguments = parser.parse_args()

with create_engine(make_url(arguments.url).set(drivername="postgresql+psycopg")).connect() as connection:
    months = pd.read_sql(text("select * from month_status"), connection, parse_dates=["sale_month"])
    freshness = pd.read_sql(text("select * from data_freshness"), connection)
    statistics = pd.read_sql(
        text("select * from data_statistics where table_name <> 'sales' order by published_at"), connection
    )

# Months of the same calendar between the first and the last that nobody has tried to load are missing.
if len(months):
    months = months.set_index("sale_month").asfreq("MS").reset_index()
months["shown"] = months.state.fillna("missing").where(~((months.state == "loaded") & months.problem.notna()), "odd")


def picture(draw: Callable[[Figure], None], height: float) -> str:
    """A figure as SVG, light and dark; the page shows the one that fits."""
    found = ""
    for name, style in (("light", "default"), ("dark", "dark_background")):
        with context(style), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
            figure, text_of = Figure(figsize=(9, height), layout="constrained"), io.StringIO()
            draw(figure)
            figure.savefig(text_of, format="svg", transparent=True, metadata={"Date": None})
        drawing = text_of.getvalue()
        found += f'<div class="{name}">{drawing[drawing.index("<svg") :]}</div>'
    return found


def draw_months(figure: Figure) -> None:
    """A cell for each month: years downwards, months to the right."""
    axes = figure.subplots()
    codes = {state: number for number, state in enumerate(STATES)}
    grid = months.assign(year=months.sale_month.dt.year, month=months.sale_month.dt.month, code=months.shown.map(codes))
    grid = grid.pivot_table(index="year", columns="month", values="code").reindex(columns=range(1, 13))
    axes.pcolormesh(
        range(1, 13), grid.index, grid, cmap=ListedColormap(list(STATES.values())), vmin=-0.5, vmax=len(STATES) - 0.5,
        edgecolors="grey", linewidth=0.5,
    )  # fmt: skip
    axes.invert_yaxis()
    axes.set_xticks(range(1, 13))
    axes.set_yticks(grid.index)
    seen = [state for state in STATES if state in set(months.shown)]
    axes.legend(
        handles=[Patch(color=STATES[state], label=f"{state} ({(months.shown == state).sum()})") for state in seen],
        loc="upper left",
        bbox_to_anchor=(1, 1),
    )


def draw_sales(figure: Figure) -> None:
    """Rows and total, with a mark on odd months."""
    odd = months[months.shown == "odd"]
    for axes, (column, name) in zip(figure.subplots(1, 2), (("row_count", "rows"), ("total", "total")), strict=True):
        axes.plot(months.sale_month, months[column].astype(float), marker=".")
        axes.plot(odd.sale_month, odd[column].astype(float), "o", color=STATES["odd"], label="odd")
        axes.set(title=name, ylim=(0, 1.1 * float(months[column].max())))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(axis="x", rotation=30)
        if len(odd):
            axes.legend()


def table(frame: pd.DataFrame) -> str:
    """A table of the page."""
    return str(frame.to_html(index=False, border=0, na_rep=""))


def drift() -> str:
    """Each column of the customer files, now and in the file before."""
    rows = []
    for (name, column), found in statistics.groupby(["table_name", "column_name"], sort=False):
        for _, one in found.tail(2).iterrows():
            shares = {letter: f"{count / one.sample_rows:.3f}" for letter, count in sorted((one.counts or {}).items())}
            rows.append(
                {
                    "table": name,
                    "column": column,
                    "published": f"{one.published_at:%Y-%m-%d %H:%M}",
                    "rows": f"{one.row_count:,}",
                    "missing": f"{one.missing_values / max(one.sample_rows, 1):.3f}",
                    "quartiles": ""
                    if pd.isna(one["median"])
                    else f"{one.lower_quartile:g} · {one['median']:g} · {one.upper_quartile:g}",
                    "shares": " ".join(f"{letter}: {share}" for letter, share in shares.items()),
                }
            )
    return table(pd.DataFrame(rows))


problems = months[months.problem.notna()]
with open(arguments.page, "w") as page:
    page.write(
        PAGE.format(
            moment=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
            months=picture(draw_months, 0.8 + 0.4 * months.sale_month.dt.year.nunique()) if len(months) else "",
            problems="".join(
                f"<p>{m:%Y-%m}: {html.escape(p)}</p>"
                for m, p in zip(problems.sale_month, problems.problem, strict=True)
            ),
            sales=picture(draw_sales, 3) if len(months) else "",
            freshness=table(
                freshness.drop(columns="file_version").assign(
                    loaded_at=freshness.loaded_at.map(
                        lambda moment: "" if pd.isna(moment) else f"{moment:%Y-%m-%d %H:%M}"
                    ),
                    up_to=freshness.up_to.fillna(""),
                )
            ),
            drift=drift(),
        )
    )
print(f"{arguments.page}: {len(months)} months, {len(freshness)} tables")
