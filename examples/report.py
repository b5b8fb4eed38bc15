"""Writes one HTML page about what is loaded, as ds_user: months, sales per month, freshness, drift of the features.

The page needs no server and no network. Matplotlib draws the lines as SVG, once for light and once for dark screens.
"""

import argparse
import html
import io
import os
from collections.abc import Callable, Container
from datetime import UTC, date, datetime, timedelta
from functools import partial

import matplotlib as mpl  # type: ignore[import-not-found]
import pandas as pd  # type: ignore[import-untyped]
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # type: ignore[import-not-found]
from matplotlib.figure import Figure  # type: ignore[import-not-found]
from matplotlib.style import context  # type: ignore[import-not-found]
from matplotlib.ticker import EngFormatter  # type: ignore[import-not-found]
from sqlalchemy import create_engine, make_url, text

# Colour and sign of each status of a month.
STATUSES = {
    "loaded": ("#2e8b3d", ""),
    "unusual": ("#8a7f00", "!"),
    "changed": ("#c2408f", "≠"),
    "waiting": ("#1f8a99", "…"),
    "loading": ("#2f6fb5", "↓"),
    "pending_approval": ("#b86200", "?"),
    "rejected": ("#c62828", "✗"),
    "failed": ("#7a2e1d", "✗"),
    "retired": ("#6b6b6b", "-"),
    "not_in_source": ("#7d55b0", "-"),
    "missing": ("#8f8f8f", "·"),
}
COLUMNS = {
    "table_name": "table", "status": "status", "row_count": "rows", "up_to": "up to", "loaded_at": "loaded at, UTC"
}  # fmt: skip
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
table {{ border-collapse: collapse; font-size: .85rem; white-space: nowrap; }}
.wide {{ overflow-x: auto; }}
th, td {{ text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid gray; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.months {{ border-spacing: 2px; border-collapse: separate; width: 100%; max-width: 34rem; }}
.months th, .months td, .key span {{ border: 0; padding: 0; min-width: 1.4rem; height: 1.4rem; text-align: center; }}
.months tbody th {{ padding-right: .4rem; }}
.months td[class], .key span {{ font-size: .85rem; color: white; border-radius: 3px; }}
.key span {{ display: inline-block; margin-right: .3rem; vertical-align: middle; }}
.key li {{ display: inline-block; margin-right: 1rem; }}
.key {{ list-style: none; padding: 0; }}
.old {{ color: #c62828; font-weight: bold; }}
{colours}
.dark {{ display: none; }}
@media (prefers-color-scheme: dark) {{
    .light {{ display: none; }} .dark {{ display: block; }} .old {{ color: #ff7b72; }}
}}
</style>
<h1>Company data</h1>
<p>Written at <time datetime="{moment}">{moment_shown} UTC</time><span id="age"></span>. <code>make report</code> writes
it again.</p>
<script>
const hours = (Date.now() - Date.parse(document.querySelector("time").dateTime)) / 3600000;
const age = document.getElementById("age");
const days = Math.floor(hours / 24);
age.textContent = hours < 1 ? "" : days < 2 ? `, ${{Math.floor(hours)}} hours ago` : `, ${{days}} days ago`;
age.className = hours < {old_hours} ? "" : "old";
</script>
<h2>Months</h2>
{months}{notes}
<h2>Rows and totals per month</h2>
<div class="pictures">{figures}</div>
<h2>Tables</h2>{freshness}
<h2>Columns of the customer files</h2>
<p>Columns of the published files and of the previous ones.</p>{drift}
</html>
"""
OLD_HOURS = 24

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
# A month between the first and the last one of its table without an attempt is missing.
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


def month_map(months: pd.DataFrame, name: str) -> str:
    """A table with a cell for each month: years downwards, months to the right."""
    shown = {(month.year, month.month): status for month, status in zip(months.file_month, months.shown, strict=True)}

    def cell(year: int, month: int) -> str:
        if not (status := shown.get((year, month))):
            return "<td></td>"
        return f'<td class="{status}" title="{year}-{month:02}: {status}">{STATUSES[status][1]}</td>'

    rows = "".join(
        f"<tr><th>{year}</th>{''.join(cell(year, month) for month in range(1, 13))}</tr>"
        for year in range(months.file_month.min().year, months.file_month.max().year + 1)
    )
    heads = "".join(f"<th>{month}</th>" for month in range(1, 13))
    key = "".join(
        f'<li><span class="{status}">{sign}</span>{status} ({(months.shown == status).sum()})</li>'
        for status, (_, sign) in STATUSES.items()
        if status in set(months.shown)
    )
    return (
        f'<h3>{name}</h3><div class="wide"><table class="months"><thead><tr><th></th>{heads}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><ul class="key">{key}</ul>'
    )


def draw_column(months: pd.DataFrame, column: str, name: str, figure: Figure) -> None:
    """A column by month, with a mark on unusual months."""
    axes, unusual = figure.subplots(), months[months.shown == "unusual"]
    axes.plot(months.file_month, months[column].astype(float), marker=".")
    axes.plot(unusual.file_month, unusual[column].astype(float), "o", color=STATUSES["unusual"][0], label="unusual")
    axes.set(ylim=(0, 1.1 * float(months[column].max())))
    axes.set_title(name, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(AutoDateLocator(maxticks=7))
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
    if len(unusual):
        axes.legend()


def table(frame: pd.DataFrame, numbers: Container[str] = ()) -> str:
    """A table of the page; the columns of numbers are aligned to the right."""
    place = {column: ' class="number"' if column in numbers else "" for column in frame}
    heads = "".join(f"<th{place[column]}>{column}</th>" for column in frame)
    rows = "".join(
        "<tr>" + "".join(f"<td{place[column]}>{html.escape(str(row[column]))}</td>" for column in frame) + "</tr>"
        for row in frame.to_dict("records")
    )
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def share(part: float, whole: float) -> str:
    """A part of a whole."""
    return f"{100 * part / max(whole, 1):.1f} %"


def drift() -> str:
    """Each column of the customer files, in the published file and in the one before."""
    found = ""
    for name, columns in statistics.groupby("table_name", sort=False):
        rows = []
        for column, files in columns.groupby("column_name"):
            for _, one in files.tail(2).iterrows():
                counts = sorted((one.counts or {}).items())
                rows.append(
                    {
                        "column": column,
                        "file published at, UTC": f"{one.published_at:%Y-%m-%d %H:%M}",
                        "rows": f"{one.row_count:,}",
                        "without a value": share(one.missing_values, one.sample_rows),
                        "quartiles, or share of each value": ", ".join(
                            f"{letter or '(empty)'}: {share(count, one.sample_rows)}" for letter, count in counts
                        )
                        if pd.isna(one["median"])
                        else " · ".join(
                            quartile(column, one[part]) for part in ("lower_quartile", "median", "upper_quartile")
                        ),
                    }
                )
        found += f"<h3>{name}</h3>{table(pd.DataFrame(rows), {'rows', 'without a value'})}"
    return found


def quartile(column: str, value: float) -> str:
    """A quartile; that of a day is counted from 2000-01-01."""
    return f"{date(2000, 1, 1) + timedelta(days=int(value))}" if column.startswith("valid_") else f"{value:,.5g}"


notes = months.assign(note=months.error.fillna(months.anomalies)).dropna(subset="note")
now = datetime.now(UTC)
# Other accounts of the machine cannot read it; a page that is replaced keeps its mode.
with open(arguments.page, "w", opener=partial(os.open, mode=0o600)) as page:
    page.write(
        PAGE.format(
            moment=f"{now:%Y-%m-%dT%H:%M:%SZ}",
            moment_shown=f"{now:%Y-%m-%d %H:%M}",
            old_hours=OLD_HOURS,
            colours="\n".join(f".{status} {{ background: {colour}; }}" for status, (colour, _) in STATUSES.items()),
            months="".join(month_map(found, source) for source, found in monthly.items()),
            notes="".join(
                f"<p>{source}, {month:%Y-%m}, {status}: {html.escape(note)}</p>"
                for source, month, status, note in zip(
                    notes.table_name, notes.file_month, notes.shown, notes.note, strict=True
                )
            ),
            figures="".join(
                picture(partial(draw_column, found, column, f"{source}: {name}"), 2.5)
                for source, found in monthly.items()
                for column, name in (("row_count", "rows"), ("total", "total"))
                if found[column].notna().any()
            ),
            freshness=table(
                freshness[list(COLUMNS)]
                .assign(
                    row_count=freshness.row_count.map(lambda rows: "" if pd.isna(rows) else f"{rows:,.0f}"),
                    loaded_at=freshness.loaded_at.map(
                        lambda moment: "" if pd.isna(moment) else f"{moment:%Y-%m-%d %H:%M}"
                    ),
                    up_to=freshness.up_to.fillna(""),
                )
                .rename(columns=COLUMNS),
                {"rows"},
            ),
            drift=drift(),
        )
    )
print(f"{len(months)} months, {len(freshness)} tables")
