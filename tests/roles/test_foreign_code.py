"""Functions, operators, triggers and tables of mle_user: no connection and no function of the pipeline runs them."""

from datetime import date
from itertools import product
from pathlib import Path

import psycopg
import pytest
from conftest import DEFAULT_PASSWORDS, ROOT, Database, Files
from psycopg.errors import CheckViolation, DatatypeMismatch, InsufficientPrivilege, ReservedName
from support.airflow_runs import run_dag
from support.bucket_files import write_month
from support.foreign_code import allow_overloads, plant_shadows, safe, shadows_ran, watched_logins
from support.steps import CUSTOMERS, FEATURES, MAINTENANCE, SALES, Run, build_feature_store, load_customers, load_month

from embedded.sample_data import months_before, write_bucket
from services.passwords import set_passwords
from services.status import read_status

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow")]

# The month that is loaded, and the one after it.
MONTH, NEXT_MONTH = "2024-02-01", date(2024, 3, 1)


def test_no_task_command_printed_sql_or_function_for_readers_runs_a_shadow(
    database: Database, files: Files, tmp_path: Path
) -> None:
    """Shadows are planted before anything is loaded."""
    write_bucket(files.folder, months_before(NEXT_MONTH, 1))
    plant_shadows(database.url)
    database.migrate("upgrade head", "downgrade base")
    allow_overloads(database.url)
    database.migrate("upgrade head")
    with watched_logins(database.url) as logins:
        for dag, month in ((SALES, MONTH[:7]), (CUSTOMERS, None), (FEATURES, None)):
            assert run_dag(dag, month) == "success"
        Run(database, MAINTENANCE).run("discard_orphans", "analyze_months")
        database.migrate("upgrade head")
        read_status(database.url(), [NEXT_MONTH])
        write_passwords(tmp_path)
        set_passwords("operational-db", database.url(), tmp_path)
        paths = logins.paths()
    safe_path = "pg_catalog,pg_temp"
    assert {(who, path.replace(" ", "")) for who, path in paths} == {("pipeline", safe_path), ("admin", safe_path)}
    assert not shadows_ran(database.url)

    # The caller's own path has public first, as an attacker would want it. Functions that become part of the caller's
    # query are as safe as that: on the path that PostgreSQL sets.
    day, pairs = "date '2024-02-01'", "array[1, 2], array[date '2024-02-01', '2024-02-01']"
    moments = ("", ", timestamptz 'infinity'")
    for options, statements in {
        "-c search_path=public,pg_catalog": (
            *(
                f"select public.make_training_set(text '{name}', text 'select idx from public.feature_store'{known})"
                for name, known in zip("ab", moments, strict=True)
            ),
            "select public.repeat_training_set(text 'a')",
            *(f"table public.{view}" for view in ("month_status", "data_freshness", "data_statistics")),
        ),
        "": (
            *(f"select public.feature_store_as_of({day}{known})" for known in moments),
            *(f"select public.feature_store_at({pairs}{known})" for known in moments),
        ),
    }.items():
        with psycopg.connect(database.url("ds_user"), autocommit=True, options=options) as connection:
            for statement in statements:
                assert connection.execute(statement.encode()).fetchall(), statement
    assert not shadows_ran(database.url)

    for target in ("downgrade head:base", "upgrade head"):
        printed = database.alembic(*target.split(), "--sql")
        database.client("psql", "--quiet", "--set=ON_ERROR_STOP=1", database.url(), text=printed.stdout)
        if target.startswith("downgrade"):
            with safe(database.url) as connection:
                connection.execute("drop schema migrations cascade")
            allow_overloads(database.url)
    assert not shadows_ran(database.url)

    # In a cluster of Citus. What is recorded is created again by admin.
    functions = f"--file={ROOT / 'deploy/citus/functions.sql'}"
    database.client(
        "psql",
        "--quiet",
        "--set=ON_ERROR_STOP=1",
        "--command=set search_path = pg_catalog, pg_temp",
        functions,
        database.url(),
    )
    assert database.run("select count(*) from migrations.replaced_functions") == [(2,)]
    database.open_to_readers()
    for call in (f"feature_store_as_of({day})", f"feature_store_at({pairs})"):
        database.run(f"select * from public.{call}", "ds_user")
    assert not shadows_ran(database.url)

    # The attack itself works where public is on the search path: without this, the test could not fail.
    database.run("select count(1::integer), 1::integer = date '2024-02-01'")
    assert shadows_ran(database.url)


def write_passwords(folder: Path) -> None:
    """The passwords as the service that migrates has them."""
    (folder / "admin_password.known").write_text("admin")
    for login in ("admin", "ds_user", "mle_user", "pipeline"):
        (folder / f"{login}_password").write_text(DEFAULT_PASSWORDS.get(login, login))


def test_each_function_has_a_fixed_path_or_names_what_was_found_when_it_was_made(database: Database) -> None:
    """A body that is stored as text is read again in each session."""
    with safe(database.url) as connection:
        found = connection.execute("""
            select oid::regprocedure::text, array_to_string(proconfig, ' ')
            from pg_proc
            where
                pronamespace in ('public'::regnamespace, 'pipeline'::regnamespace)
                and prosqlbody is null
                and not 'search_path=pg_catalog, pg_temp' = any(coalesce(proconfig, '{}'))
        """).fetchall()
    # These qualify every name. The first runs the query of its caller, who expects the tables of public; the others
    # become part of it, which a path of their own would prevent.
    assert sorted(str(name) for name, _ in found) == [
        "pipeline.measure_training_set(text,timestamp with time zone)",
        "public.feature_store_as_of(date)",
        "public.feature_store_as_of(date,timestamp with time zone)",
        "public.feature_store_at(integer[],date[])",
        "public.feature_store_at(integer[],date[],timestamp with time zone)",
    ]


# What a call of a function in public could find instead, and what makes it an error.
FUNCTION = "create function {} returns integer language sql return 1"
OVERLOADS = (
    *(FUNCTION.format(f"public.feature_store_as_of({types})") for types in ("", "text", "date, integer default 0")),
    "create procedure public.require_known(text) language sql begin atomic end",
    "create aggregate public.feature_store_at(text) (sfunc = pg_catalog.textcat, stype = text)",
    "create domain public.repeat_training_set as text",
    "create type public.repeat_training_set as enum ()",
    "create type public.require_known as range (subtype = text)",
    "create type public.mine as range (subtype = text, multirange_type_name = public.make_training_set)",
    *(
        f"{FUNCTION.format('public.mine(text)')}; alter {kind} public.mine(text) rename to require_known"
        for kind in ("function", "routine")
    ),
    f"{FUNCTION.format('mine.require_known(text)')}; alter function mine.require_known(text) set schema public",
    *(
        f"create domain public.mine as text; alter {kind} public.mine rename to repeat_training_set"
        for kind in ("domain", "type")
    ),
)


def test_mle_user_makes_no_overload_of_a_function_of_the_pipeline(database: Database) -> None:
    database.run("create schema mine authorization mle_user")
    for statement in OVERLOADS:
        with pytest.raises(ReservedName, match="of mle_user beside the functions"):
            database.run(statement, "mle_user")
    for statement in (FUNCTION.format("public.mine(date)"), "create domain public.my_text as text"):
        database.run(statement, "mle_user")
    # Nor one that is there when the pipeline gets the function.
    database.migrate("downgrade 0107")
    database.run(OVERLOADS[1], "mle_user")
    assert "Choose another name." in database.alembic("upgrade", "head").stderr
    database.run("drop function public.feature_store_as_of", "mle_user")
    database.migrate("upgrade head")


# A type whose cast to integer is a function of mle_user.
CAST = """
    create sequence public.casts_as_others;
    grant all on sequence public.casts_as_others to public;
    create type public.evil_number as enum ('1');
    create function public.evil_number(public.evil_number) returns integer language plpgsql as $$
    begin
        if current_user <> 'mle_user' then
            perform nextval('public.casts_as_others');
        end if;
        return 1;
    end
    $$;
    create cast (public.evil_number as integer) with function public.evil_number(public.evil_number) as implicit;
"""


def test_a_foreign_key_of_mle_user_runs_no_cast_with_the_rights_of_another_owner(database: Database) -> None:
    database.open_to_readers()
    database.run("""
        create table public.of_admin (idx integer primary key);
        insert into of_admin values (1);
        insert into stores values (1, 'Porto');
        insert into feature_store values (1, 1, 'A', 1, 1, 0)
    """)
    with database.connect("mle_user") as connection:
        connection.execute(CAST)
        for table in ("stores", "feature_store", "of_admin"):
            key = f"references public.{table} (idx)"
            with pytest.raises(DatatypeMismatch):
                connection.execute(f"create table public.mine (idx public.evil_number {key})".encode())
            connection.execute("create table public.mine (idx public.evil_number)")
            with pytest.raises(DatatypeMismatch):
                connection.execute(f"alter table public.mine add foreign key (idx) {key} not valid".encode())
            # With the types of the key it works as ever.
            connection.execute(f"create table public.good (idx integer {key})".encode())
            connection.execute("insert into public.good values (1)")
            with pytest.raises(DatatypeMismatch, match="has other types than the columns of"):
                connection.execute("alter table public.good alter column idx type public.evil_number using '1'")
            connection.execute("drop table public.mine, public.good")
    assert database.run("select is_called from public.casts_as_others") == [(False,)]


# A function that takes the rights of whoever calls it, on a table that it is called for when rows are analyzed.
EVIL = """
    create sequence public.calls_as_owner;
    grant all on sequence public.calls_as_owner to public;
    create function public.evil(integer) returns integer immutable language plpgsql as $$
    begin
        if current_user = 'pipeline_owner' then
            perform nextval('public.calls_as_owner');
            grant select, insert, update, delete on pipeline.loads to mle_user;
        end if;
        return $1;
    end
    $$;
    create table public."evil; drop" (idx integer, value text default public.evil(1)::text);
    create table public.evil (idx integer, value text default public.evil(1)::text);
    create index on public.evil (public.evil(idx));
    grant all on public.evil, public."evil; drop" to public;
"""
AS_PIPELINE = (
    *(f"perform pipeline.begin_load('{table}', null, 'x', 'x', 'x')" for table in ("evil", "evil; drop", "pg_class")),
    *(f"perform pipeline.begin_load('{table}', null, 'x', 'x', 'x')" for table in ("training_sets", "Labels")),
    "perform pipeline.begin_load(null, null, 'x', 'x', 'x')",
    "insert into pipeline.sources values ('evil', 'x', null)",
    "update pipeline.sources set table_name = 'evil' where table_name = 'labels'",
    "update pipeline.files set table_name = 'evil'",
    "update pipeline.loads set file_id = 1",
    "update pipeline.loads set staged_table = 'public.evil'",
    "execute 'create table staging.evil_1 (like public.evil including all)'",
    "insert into pipeline.files (table_name) values ('evil')",
    "insert into pipeline.loads (file_id, dag_id, run_id, source_url, staged_table) values (1, 'x', 'x', 'x', 'evil')",
)
ATTEMPT = """
    begin
        {statement};
        select max(load_id) into load from pipeline.loads;
        execute 'insert into ' || (select staged_table from pipeline.loads where load_id = load) || ' select 1';
        perform pipeline.stage_load(load, null, null, 1, 'x', 1);
        insert into public.statuses values (current_user, 'done');
    exception
        when others then
            insert into public.statuses values (current_user, sqlstate);
    end;
"""
ATTACK = """
    create table public.statuses (who name, what text);
    grant all on public.statuses to public;
    create function public.attack() returns trigger language plpgsql as $attack$
    declare load bigint; begin {attempts} return null; end $attack$;
    create trigger attack after insert on monthly_sales execute function public.attack()
"""


def test_a_trigger_of_mle_user_does_not_reach_the_owners_rights(database: Database, files: Files) -> None:
    """It acts as pipeline, since it runs in a load; what pipeline may do is all that it may do."""
    write_month(files, MONTH[:7])
    load_month(database, MONTH)
    attempts = "".join(ATTEMPT.format(statement=statement) for statement in AS_PIPELINE)
    database.run(EVIL + ATTACK.format(attempts=attempts), "mle_user")
    load_month(database, MONTH)
    found = database.run("select who, what from public.statuses")
    assert len(found) == len(AS_PIPELINE)
    # 428C9: load_id is generated. 55PL3: there is no such source.
    rejected = {CheckViolation.sqlstate, InsufficientPrivilege.sqlstate, "428C9", "55PL3"}
    assert set(found) <= {("pipeline", what) for what in rejected}, found
    assert database.run("select is_called from public.calls_as_owner") == [(False,)]
    for forbidden in ("select * from pipeline.loads", "insert into public.training_sets (name) values ('forged')"):
        with pytest.raises(InsufficientPrivilege):
            database.run(forbidden, "mle_user")


# What must be left of what a trigger's function does as the login pipeline, by functions with their owner's rights.
CALLS_AS_PIPELINE = """
    create function public.{name}() returns trigger language plpgsql as $attack$
    begin
        perform {call};
        return null;
    exception
        when others then
            return null;
    end
    $attack$;
    create trigger {name} after insert on public.monthly_sales execute function public.{name}();
"""


def test_triggers_of_mle_user_open_no_features_and_discard_no_table_but_those_of_loads(
    database: Database, files: Files
) -> None:
    """The features: neither before the first build nor what a person closed after it."""
    write_bucket(files.folder, months_before(NEXT_MONTH, 1))
    load_month(database, MONTH)
    # All but those of the two loads, and the stores that are published.
    tables = """
        select array_agg(oid::regclass::text order by oid)
        from pg_class
        where relkind in ('r', 'p') and not (relnamespace::regnamespace::text = 'staging' and relname ~ '_[0-9]+$')
    """
    features = ["public.feature_history", "public.feature_store"]
    discards = "pipeline.drop_staged(number) from generate_series(-1, 100) as number"
    for name, call in (("opens", "pipeline.open_feature_store()"), ("discards", discards)):
        database.run(CALLS_AS_PIPELINE.format(name=name, call=call), "mle_user")
    before = database.run(tables)
    for is_built in (False, True):
        if is_built:
            load_customers(database)
            build_feature_store(database)
            for table in features:
                database.run(f"revoke all on {table} from ds_user_role, mle_user_role")
        load_month(database, MONTH)
        assert database.run(tables) == before
        assert database.run("select count(*) > 0 from sales") == [(True,)]
        for user, table in product(("ds_user", "mle_user"), features):
            with pytest.raises(InsufficientPrivilege):
                database.run(f"select * from {table}", user)
