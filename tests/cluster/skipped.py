"""Tests that are skipped on a Citus cluster."""

FEATURES, ROLES, LOADS = "tests/features/test_", "tests/roles/test_", "tests/loads/test_"

# Tests of what Citus does not allow, or shows in another way: the beginning of the name, and the reason.
NOT_ON_A_CLUSTER = {
    f"{FEATURES}feature_history.py::test_a_table_that_was_emptied_by_hand_is_built_again[feature_history]": (
        "truncate of a partitioned table by mle_user"
    ),
    f"{FEATURES}feature_history.py::test_a_client_is_looked_up_by_an_index": "plans are the workers'",
    f"{FEATURES}feature_history.py::test_what_is_known_now_does_not_read_superseded_rows": "plans are the workers'",
    f"{FEATURES}first_publication.py::test_functions_and_views_on_a_closed_table_are_denied_too[mle_user]": (
        "Citus does not copy a function with a return body"
    ),
    f"{ROLES}privileges.py::test_a_table_that_is_created_later_is_read_by_ds_user_and_managed_by_mle_user[mle_user"
    " acting as its role]": "the servers do not log in as a role after set role",
    f"{ROLES}privileges.py::test_mle_user_writes_every_table": "truncate of a partitioned table by mle_user",
    f"{ROLES}privileges.py::test_public_holds_the_tables": "Citus has views in public",
    f"{LOADS}loads.py::test_every_session_of_a_task": "triggers on distributed tables",
    f"{LOADS}concurrency.py::test_a_row_that_vanishes": "foreign keys of local tables",
    f"{LOADS}concurrency.py::test_a_transaction_that_refers_to": "foreign keys of local tables",
    "tests/operation/test_maintenance.py::test_a_load_that_was_not_published_for_30_days": (
        "the workers have the statistics"
    ),
}
