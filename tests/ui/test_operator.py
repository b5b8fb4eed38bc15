"""An operator's way through Airflow's UI, in a real browser; each step goes on where the one before has ended."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from conftest import ROOT
from playwright.sync_api import Locator, Page, expect
from support.browser import HEIGHT, WIDTH, chromium, drag, opened, picture
from support.documents import blocks
from support.system import SALES_DAG, System, months, rows, started, wait_for

TASKS = ("stage_sales", "stage_stores", "check_month", "compare_month", "approve_month", "publish_month")
MONTHS = 8  # with fewer, a month is compared with none
RUN_SECONDS = 180
# The name of the round arrow at the top of a run's page.
CLEAR_ON_ITS_PAGE = "Press shift+c to clear"

BAD_LINE, BAD_VALUE = 42, "12,50 EUR"


@pytest.fixture(scope="module")
def program() -> str:
    return chromium()


@pytest.fixture(scope="module")
def system(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The system with its own sample bucket, whose files lie in its folder."""
    settings = {"SOURCE_BASE_URL": "", "SALES_FIRST_MONTH": f"{months(MONTHS)[0]:%Y-%m}"}
    with started(tmp_path_factory.mktemp("system") / "tree", settings) as running:
        yield running


@pytest.fixture(scope="module")
def page(program: str, system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One window for the whole walk."""
    with opened(program, tmp_path_factory.mktemp("browser") / "last.png") as window:
        yield window


def test_the_login_leads_to_green_workflows(page: Page, system: System) -> None:
    page.goto(system.url)
    page.get_by_label("Username").fill("airflow")
    page.get_by_label("Password").fill("airflow")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Dags", exact=True).first.click()
    expect(page.get_by_role("heading", name="4 Dags")).to_be_visible()
    for workflow in ("customer_data_load", "feature_store", SALES_DAG):
        latest = page.locator(f'a[href^="/dags/{workflow}/runs/"]').filter(has=page.get_by_role("time"))
        expect(latest).to_have_accessible_name(re.compile("success$"))
    picture(page, "workflows")


def test_the_report_is_a_page_of_the_menu(page: Page, system: System) -> None:
    system.make("report")
    page.get_by_role("link", name="Report", exact=True).click()
    report = page.frame_locator("iframe")
    expect(report.get_by_role("heading", name="Company data")).to_be_visible()
    expect(report.get_by_text(re.compile(r"loaded \(\d+\)")).first).to_be_visible()
    picture(page, "report")


def test_the_graph_shows_the_steps_of_a_month(page: Page, system: System) -> None:
    open_sales(page)
    page.get_by_role("button", name="Show Graph").click()
    page.get_by_role("button", name="Expand all task groups").click()
    page.get_by_role("button", name="Fit View").click()
    for task in TASKS:
        expect(page.locator(".react-flow").get_by_text(task, exact=True)).to_be_visible()
    picture(page, "graph")
    page.get_by_role("button", name="Show Grid").click()


def test_a_broken_month_fails_and_its_log_says_why(page: Page, system: System) -> None:
    month = months(3)[0]
    file, loaded = file_of(system, month), in_tables(system, month)
    lines = file.read_text().splitlines(keepends=True)
    idx, _, rest = lines[BAD_LINE - 1].split(",", 2)
    file.rename(file.with_suffix(".good"))
    file.write_text("".join([*lines[: BAD_LINE - 1], f'{idx},"{BAD_VALUE}",{rest}', *lines[BAD_LINE:]]))
    run = clear_by_clicks(page, system, month)
    expect(row_of(page, run)).to_contain_text("Failed", timeout=RUN_SECONDS * 1000)
    assert in_tables(system, month) == loaded

    # Wide enough for all months.
    drag(page, page.get_by_role("separator"), right=110)
    expect(page.locator(f'a[href$="/runs/{run}/tasks/stage_sales"]')).to_be_visible()
    page.get_by_role("link", name=run, exact=True).scroll_into_view_if_needed()
    picture(page, "failed-month", last=page.get_by_role("table"))

    page.get_by_role("link", name=run, exact=True).click()
    tasks = page.get_by_role("table")
    expect(tasks.get_by_role("row").filter(has_text="stage_sales")).to_contain_text("Failed")
    tasks.get_by_role("link", name="stage_sales", exact=True).click()
    reason = page.get_by_text(f"sales/{month}/sales.csv, line {BAD_LINE}, column value").last
    expect(reason).to_contain_text(BAD_VALUE)
    expect(reason).to_be_in_viewport()
    picture(page, "reason", last=reason)


def test_the_repaired_month_is_cleared_by_clicks_and_turns_green(page: Page, system: System) -> None:
    month = months(3)[0]
    file_of(system, month).with_suffix(".good").rename(file_of(system, month))
    open_sales(page)
    run = clear_by_clicks(page, system, month)
    expect(row_of(page, run)).to_contain_text("Success", timeout=RUN_SECONDS * 1000)
    for each in months(MONTHS):
        assert in_tables(system, each) == in_file(system, each)


def test_three_months_are_loaded_again_by_the_form_for_backfills(page: Page, system: System) -> None:
    wanted = months(MONTHS)[1:4]
    for month in wanted:
        with file_of(system, month).open("a") as file:
            file.write(f"99999,1000.01,{month},1\n")
    before = {run["dag_run_id"] for run in system.api().runs(SALES_DAG)}

    open_sales(page)
    page.get_by_role("button", name="Trigger Dag").click()
    form = page.get_by_role("dialog")
    form.get_by_text("Backfill", exact=True).click()
    for label, day in (("From", wanted[0]), ("To", wanted[-1])):
        form.get_by_role("group").filter(has_text=label).get_by_test_id("datetime-input").click()
        page.get_by_role("textbox", name=label, exact=True).fill(f"{day:%Y/%m/%d}")
        form.get_by_text("Date Range").click()
        expect(page.get_by_placeholder("YYYY/MM/DD")).to_have_count(0)  # the calendar closes with an animation
    form.get_by_text("All Runs", exact=True).click()
    form.get_by_role("spinbutton").fill("10")
    expect(form).to_contain_text("3 runs will be triggered")
    page.set_viewport_size({"width": WIDTH, "height": 1100})  # the whole form
    picture(page, "backfill", last=form.get_by_role("button", name="Run Backfill"))
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    form.get_by_role("button", name="Run Backfill").click()
    expect(form).to_be_hidden()

    page.get_by_role("link", name="Backfills", exact=True).click()
    expect(page.get_by_role("row").filter(has_text="All Runs")).to_contain_text(str(wanted[0]))
    wait_for(lambda: [run["run_type"] for run in system.api().runs(SALES_DAG)].count("backfill") == 3)
    page.get_by_role("link", name="Runs", exact=True).click()
    page.reload()  # a list in which nothing ran is not asked for again by itself
    for month in wanted:
        row = row_of(page, run_of(system, month))
        expect(row).to_contain_text("Backfill")
        expect(row).to_contain_text("Success", timeout=RUN_SECONDS * 1000)
    for month in months(MONTHS):
        assert in_tables(system, month) == in_file(system, month)
    assert {run["dag_run_id"] for run in system.api().runs(SALES_DAG)} == before


def test_the_tour_of_an_unusual_month_leads_where_its_page_says(page: Page, system: System) -> None:
    tour = ROOT / "docs/tour.md"
    cut, preview, look, repair = [block.text for block in blocks(tour) if block.language == "sh"]
    clicked = {"Dags", "Runs", CLEAR_ON_ITS_PAGE, "Clear existing tasks", "Confirm", "Home", "Required Actions"}
    assert set(re.findall(r"\*\*(.+?)\*\*", tour.read_text())) == {*clicked, "Reject load"}

    def follow(commands: str) -> str:
        done = system.command("/usr/bin/env", "bash", "-ec", commands)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    [newest] = months(1)
    before = in_tables(system, newest)
    follow(cut)
    assert before[0] / 2 < in_file(system, newest)[0] < before[0]
    assert "The month is unusual and would wait for a person (ON_ANOMALY=protect): " in follow(preview)
    assert in_tables(system, newest) == before
    page.get_by_test_id("nav-home-link").click()
    expect(page.get_by_role("button", name="Required Actions")).to_have_count(0)
    open_sales(page)
    run = clear_by_clicks(page, system, newest, on_its_page=True)
    decide(page, system, run, "Reject")
    assert "pending_approval" in follow(look)
    page.get_by_role("button", name="Reject load").click()
    open_sales(page)
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(row_of(page, run)).to_contain_text("Failed", timeout=RUN_SECONDS * 1000)
    assert in_tables(system, newest) == before
    page.get_by_role("link", name=run, exact=True).click()
    page.reload()
    expect(page.get_by_role("table").get_by_role("row").filter(has_text="approve_month")).to_contain_text("Failed")
    page.set_viewport_size({"width": WIDTH, "height": 960})  # all tasks
    picture(page, "rejected-month", last=page.get_by_role("table"))
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.get_by_role("table").get_by_role("link", name="approve_month", exact=True).click()
    expect(page.get_by_text("Rejected by airflow: ").last).to_be_in_viewport()

    follow(repair)
    open_sales(page)
    assert clear_by_clicks(page, system, newest, on_its_page=True) == run
    open_sales(page)
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(row_of(page, run)).to_contain_text("Success", timeout=RUN_SECONDS * 1000)
    page.reload()
    expect(row_of(page, run)).to_contain_text("Success")
    picture(page, "repaired-month", last=page.get_by_role("table"))
    assert in_tables(system, newest) == in_file(system, newest) == before

    # The other answer.
    follow(cut)
    clear_by_clicks(page, system, newest)
    decide(page, system, run, "Approve")
    page.get_by_role("button", name="Approve load").click()
    open_sales(page)
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(row_of(page, run)).to_contain_text("Success", timeout=RUN_SECONDS * 1000)
    assert in_tables(system, newest) == in_file(system, newest) != before


def decide(page: Page, system: System, run: str, answer: str) -> None:
    """Open the question about a run, as the tour does; its buttons are in view."""
    wait_for(lambda: (SALES_DAG, run) in system.api().questions())
    page.get_by_test_id("nav-home-link").click()
    page.get_by_role("button", name="Required Actions").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("row").filter(has_text=run)).to_be_visible()
    dialog.get_by_role("link", name="approve_month", exact=True).click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("are unusual. Publish?")).to_be_visible()
    expect(page.get_by_role("button", name=f"{answer} load")).to_be_in_viewport(ratio=1)
    if answer == "Reject":
        picture(page, "unusual-month")


def open_sales(page: Page) -> None:
    page.get_by_role("link", name="Dags", exact=True).first.click()
    expect(page.get_by_role("heading", name="4 Dags")).to_be_visible()  # of the page before there is a link, too
    page.get_by_role("link", name=SALES_DAG, exact=True).click()
    expect(page.get_by_role("link", name="Backfills", exact=True)).to_be_visible()


def clear_by_clicks(page: Page, system: System, month: date, on_its_page: bool = False) -> str:
    """Clear a month's run, whole, in the list of runs or on its own page; returns its id."""
    run = run_of(system, month)
    page.get_by_role("link", name="Runs", exact=True).click()
    # Until it is complete, a row that comes would move the others under the mouse.
    expect(page.get_by_text(f"{len(system.api().runs(SALES_DAG))} Dag Runs", exact=True)).to_be_visible()
    if on_its_page:
        page.get_by_role("link", name=run, exact=True).click()
        page.get_by_role("button", name=CLEAR_ON_ITS_PAGE, exact=True).click()
    else:
        row_of(page, run).get_by_role("button", name="Clear Dag Run").click()
    form = page.get_by_role("dialog")
    form.get_by_role("button", name="Clear existing tasks").click()
    expect(form).to_contain_text(f"Affected Tasks: {len(TASKS)}")
    form.get_by_role("button", name="Confirm").click()
    expect(form).to_be_hidden()
    return run


def row_of(page: Page, run: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=run, exact=True))


def run_of(system: System, month: date) -> str:
    runs = system.api().runs(SALES_DAG)
    [run] = [run["dag_run_id"] for run in runs if run["data_interval_start"].startswith(str(month))]
    return str(run)


def file_of(system: System, month: date) -> Path:
    return system.run / "bucket" / f"sales/{month}/sales.csv"


def in_file(system: System, month: date) -> tuple[int, dict[int, Decimal]]:
    """Number of rows, and sum of their values by store."""
    count, sums = 0, defaultdict[int, Decimal](Decimal)
    with file_of(system, month).open(newline="") as stream:
        for row in csv.DictReader(stream):
            count += 1
            sums[int(row["store_idx"])] += Decimal(row["value"])
    return count, dict(sums)


def in_tables(system: System, month: date) -> tuple[int, dict[int, Decimal]]:
    """The same as sales and monthly_sales have it."""
    [(count,)] = rows(system, f"select count(*) from sales where date_trunc('month', date) = '{month}'")
    return count, dict(rows(system, f"select store_idx, value from monthly_sales where sale_month = '{month}'"))
