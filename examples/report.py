"""Writes one HTML page about what is loaded, as ds_user: months, sales per month, freshness, drift of the features.

The page needs no server and no network. Matplotlib draws the pictures as SVG, once for light and once for dark screens.
"""

import argparse
import html
import io
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import matplotlib as mpl  # type: ignore[import-not-found]
import pandas as pd  # type: ignore[import-untyped]
from matplotlib.colors import ListedColormap  # type: ignore[import-not-found]
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # type: ignore[import-not-found]
from matplotlib.figure import Figure  # type: ignore[import-not-found]
from matplotlib.patches import Patch  # type: ignore[import-not-found]
from matplotlib.style import context  # type: ignore[import-not-found]
from matplotlib.ticker import EngFormatter  # type: ignore[import-not-found]
from sqlalchemy import create_engine, make_url, text

STATUSES = {
    "loaded": "tab:green",
    "unusual": "tab:olive",
    "changed": "tab:pink",
    "waiting": "tab:cyan",
    "loading": "tab:blue",
    "pending_approval": "tab:orange",
    "rejected": "tab:red",
    "failed": "tab:brown",
    "retired": "tab:grey",
    "not_in_source": "tab:purple",
    "missing": "lightgrey",
}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Company data</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem; }}
h1, h2, h3 {{ line-height: 1.2; }}
.pictures {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
figure {{ flex: 1 1 20rem; max-width: 29rem; margin: 0; }}
svg {{ width: 100%; height: auto; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; font-size: .85rem; white-space: nowrap; }}
th, td {{ text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid gray; }}
.dark {{ display: none; }}
@media (prefers-color-scheme: dark) {{ .light {{ display: none; }} .dark {{ display: block; }} }}
</style>
<h1>Company data</h1>
<p>As of {moment} UTC.</p>
<h2>Months</h2>
<div class="pictures">{months}</div>{notes}
<h2>Rows and totals per month</h2>
<div class="pictures">{figures}</div>
<h2>Tables</h2>{freshness}
<h2>Features</h2>
<p>The published files, and those before them.</p>{drift}
</html>
"""

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--url", default="postgresql://ds_user:ds_user@localhost:5432/companydata")
parser.add_argument("--page", default="report.html")
arguments = parser.parse_args()

# Others may create functions in schema public; with this path an unqualified name does not find them.
engine = create_engine(
    make_url(arguments.url).set(drivername="postgresql+psycopg"),
    connect_args={"options": "-c search_path=pg_catalog,pg_temp"},
)
with engine.connect() as connection:
    months = pd.read_sql(text("select * from public.month_status"), connection, parse_dates=["file_month"])
    freshness = pd.read_sql(text("select * from public.data_freshness"), connection)
    statistics = pd.read_sql(
        text("select * from public.data_statistics where file_month is null order by published_at"), connection
    )

is_unusual = (months.status == "loaded") & months.anomalies.notna()
months["shown"] = months.status.where(~is_unusual, "unusual")
# Months between the first and the last of a table that nobody has tried to load are missing.
monthly = {
    table: found.set_index("file_month").asfreq("MS").fillna({"shown": "missing"}).reset_index()
    for table, found in months.groupby("table_name")
}


def picture(draw: Callable[[Figure], None], height: float) -> str:
    """A figure as SVG, light and dark; the page shows the one that fits. As wide as a phone, in inches."""
    found = ""
    for name, style in (("light", "default"), ("dark", "dark_background")):
        with context(style), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
            figure, text_of = Figure(figsize=(4.5, height), layout="constrained"), io.StringIO()
            draw(figure)
            figure.savefig(text_of, format="svg", transparent=True, metadata={"Date": None})
        drawing = text_of.getvalue()
        found += f'<div class="{name}">{drawing[drawing.index("<svg") :]}</div>'
    return f"<figure>{found}</figure>"


def draw_months(months: pd.DataFrame, table: str, figure: Figure) -> None:
    """A cell for each month: years downwards, months to the right."""
    axes = figure.subplots()
    codes = {status: number for number, status in enumerate(STATUSES)}
    grid = months.assign(year=months.file_month.dt.year, month=months.file_month.dt.month, code=months.shown.map(codes))
    grid = grid.pivot_table(index="year", columns="month", values="code").reindex(columns=range(1, 13))
    axes.pcolormesh(
        grid, cmap=ListedColormap(list(STATUSES.values())), vmin=-0.5, vmax=len(STATUSES) - 0.5, edgecolors="grey",
        linewidth=0.5,
    )  # fmt: skip
    axes.invert_yaxis()
    # In the middle of the cells.
    axes.set_xticks([month - 0.5 for month in range(1, 13)], range(1, 13))
    axes.set_yticks([number + 0.5 for number in range(len(grid))], grid.index)
    axes.set_title(table, loc="left")
    seen = [status for status in STATUSES if status in set(months.shown)]
    figure.legend(
        handles=[
            Patch(color=STATUSES[status], label=f"{status} ({(months.shown == status).sum()})") for status in seen
        ],
        loc="outside lower left",
        ncols=3,
        frameon=False,
    )


def draw_column(months: pd.DataFrame, column: str, name: str, figure: Figure) -> None:
    """A column by month, with a mark on unusual months."""
    axes, unusual = figure.subplots(), months[months.shown == "unusual"]
    axes.plot(months.file_month, months[column].astype(float), marker=".")
    axes.plot(unusual.file_month, unusual[column].astype(float), "o", color=STATUSES["unusual"], label="unusual")
    axes.set(ylim=(0, 1.1 * float(months[column].max())))
    axes.set_title(name, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(AutoDateLocator(maxticks=7))
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
    if len(unusual):
        axes.legend()


def table(frame: pd.DataFrame) -> str:
    """A table of the page."""
    return str(frame.to_html(index=False, border=0, na_rep=""))


def drift() -> str:
    """Each column of the customer files, now and in the file before."""
    found = ""
    for name, columns in statistics.groupby("table_name", sort=False):
        rows = []
        for column, files in columns.groupby("column_name"):
            for _, one in files.tail(2).iterrows():
                counts = sorted((one.counts or {}).items())
                rows.append(
                    {
                        "column": column,
                        "published": f"{one.published_at:%Y-%m-%d %H:%M}",
                        "missing": f"{one.missing_values / max(one.sample_rows, 1):.3f}",
                        "quartiles, or shares": "  ".join(
                            f"{letter}: {count / one.sample_rows:.3f}" for letter, count in counts
                        )
                        if pd.isna(one["median"])
                        else f"{one.lower_quartile:.5g} · {one['median']:.5g} · {one.upper_quartile:.5g}",
                        "rows": f"{one.row_count:,}",
                    }
                )
        found += f"<h3>{name}</h3>{table(pd.DataFrame(rows))}"
    return found


notes = months.assign(note=months.error.fillna(months.anomalies)).dropna(subset="note")
# Other accounts of the machine cannot read it; a page that is replaced keeps its mode.
with open(arguments.page, "w", opener=partial(os.open, mode=0o600)) as page:
    page.write(
        PAGE.format(
            moment=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
            months="".join(
                picture(partial(draw_months, found, table), 1.2 + 0.35 * found.file_month.dt.year.nunique())
                for table, found in monthly.items()
            ),
            notes="".join(
                f"<p>{table}, {month:%Y-%m}: {html.escape(note)}</p>"
                for table, month, note in zip(notes.table_name, notes.file_month, notes.note, strict=True)
            ),
            figures="".join(
                picture(partial(draw_column, found, column, f"{table}: {name}"), 2.5)
                for table, found in monthly.items()
                for column, name in (("row_count", "rows"), ("total", "total"))
                if found[column].notna().any()
            ),
            freshness=table(
                freshness[["table_name", "status", "row_count", "up_to", "loaded_at"]].assign(
                    row_count=freshness.row_count.map(lambda rows: "" if pd.isna(rows) else f"{rows:,.0f}"),
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
