-- Spreads the tables of public over the servers of a Citus cluster.
--
-- Reads       the variables coordinator and workers: HOST:PORT, several separated by commas; in the environment
--             OWNER_PASSWORD, with which the servers log in to each other as the role that owns the tables
-- Writes      the list of servers, the places of the tables, the functions of functions.sql; no row is changed
-- Idempotent  Yes. A server that has joined and a table that is distributed stay as they are.
--
-- Run it on the coordinator as admin after each alembic upgrade: README.md has the command.

set client_min_messages = 'warning';
\getenv owner_password OWNER_PASSWORD

-- The server's log would have the password.
set log_statement = 'none';
alter role pipeline_owner login password :'owner_password';
reset log_statement;

create extension if not exists citus;

-- Functions of mle_user are not found from here on. The scripts of the extension reset the path.
set search_path = pg_catalog, pg_temp;

select citus_set_coordinator_host(split_part(:'coordinator', ':', 1), split_part(:'coordinator', ':', 2)::integer);

select citus_add_node(split_part(node, ':', 1), split_part(node, ':', 2)::integer)
from string_to_table(:'workers', ',') as node;

begin;

-- Citus copies a role when another server needs it. Nothing names the logins: they may what their roles may.
select string_agg(member::regrole::text, ', ') as logins
from pg_auth_members
where
    roleid in ('ds_user_role'::regrole, 'mle_user_role'::regrole)
    and member <> current_user::regrole
\gset
grant :logins to current_user;
revoke :logins from current_user;

-- Citus would warn of each temporary view that a step of a load makes.
alter role pipeline set citus.enable_unsupported_feature_messages = off;

-- Enough for all servers to have some.
set local citus.shard_count = 8;

-- A transaction that changes tables and functions, as this one and revisions do, needs one connection per server.
set local citus.multi_shard_modify_mode = 'sequential';
alter role current_user set citus.multi_shard_modify_mode = 'sequential';

create temporary table placed (table_name regclass, column_name text, colocated_with text) on commit drop;

-- What is known of a client is on one server. Small tables stay on the coordinator: stores, monthly_sales, the ledger.
insert into placed (table_name, column_name, colocated_with) values
('public.sales', 'store_idx', 'none'),
('public.customer_profiles', 'idx', 'none'),
('public.customer_activity', 'idx', 'public.customer_profiles'),
('public.labels', 'idx', 'public.customer_profiles'),
('public.feature_history', 'idx', 'public.customer_profiles'),
('public.feature_store', 'idx', 'public.customer_profiles');

delete from placed
where table_name in (select logicalrelid from pg_dist_partition);

select
    create_distributed_table(table_name, column_name, colocate_with => colocated_with),
    -- The rows that the coordinator had before.
    truncate_local_data_after_distributing_table(table_name)
from placed;

-- Citus draws the number of a row that it inserts from distributed tables with the rights of the user.
grant usage on sequence pipeline.feature_store_builds_build_id_seq to pipeline;

\ir functions.sql

commit;

-- Their limits hold on the coordinator: a query takes several connections to each of the other servers.
do $$
declare
    failed constant text := (
        select string_agg(result, '; ')
        from run_command_on_workers($worker$
            do $do$
            begin
                perform set_config('citus.enable_alter_role_propagation', 'off', true);
                alter role ds_user connection limit -1;
                alter role mle_user connection limit -1;
            end
            $do$
        $worker$)
        where not success
    );
begin
    if failed is not null then
        raise exception '%', failed;
    end if;
end
$$;
