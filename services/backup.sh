#!/usr/bin/env bash
# Backs up both databases of the containers, verifies a backup, and restores one: docs/backup.md.
set -euo pipefail
umask 077
cd /backups

command=$1 folder=${2-}
# As the servers do: with an address to listen on, connections are encrypted.
if [[ -n $LISTEN_ADDRESS ]]; then export PGSSLMODE=verify-full; fi
# server: (its host, its superuser, the file of that one's password)
declare -A host=([operational-db]=$OPERATIONAL_DB_HOSTNAME [airflow-db]=airflow-db)
declare -A user=([operational-db]=admin [airflow-db]=airflow)
declare -A password=([operational-db]=admin_password [airflow-db]=airflow_db_password)

fail() {
    echo "error: $*" >&2
    exit 1
}

size() { du --summarize --block-size=1000000 --total "$@" | tail --lines 1 | cut --fields 1; }

back_up() {
    folder=$(date --utc +%Y-%m-%dT%H%M%SZ)
    [[ ! -e $folder ]] || fail "backups/$folder exists. Run the command again."
    # Renamed when it is whole: an interrupted backup is not taken for one.
    unfinished=$folder.unfinished
    mkdir "$unfinished"
    trap 'rm -rf "$unfinished"' EXIT
    for server in operational-db airflow-db; do
        pg_basebackup --host "${host[$server]}" --username "${user[$server]}" --no-password --checkpoint fast \
            --pgdata "$unfinished/$server"
    done
    verify "$unfinished" >/dev/null
    # To the user of the host whose folder this is.
    chown --recursive --reference . "$unfinished"
    mv --no-target-directory "$unfinished" "$folder"
    echo "backed up both databases into backups/$folder: $(size "$folder") MB, verified"
}

verify() {
    for server in operational-db airflow-db; do
        [[ -e $1/$server/backup_manifest ]] || fail "backups/$1 has no backup of $server. Nothing was changed."
        pg_verifybackup --quiet "$1/$server" || fail "backups/$1 is damaged. Nothing was changed. Take another backup."
    done
    echo "verified backups/$1"
}

choose() {
    if [[ -z $folder ]]; then
        folder=$(find . -mindepth 3 -maxdepth 3 -path './*Z/airflow-db/backup_manifest' | sort | tail --lines 1 | cut --delimiter / --fields 2)
    fi
    [[ -n $folder ]] || fail "there is no backup in the folder. docker compose run --rm backup makes one."
    verify "$folder"
}

# The server of a backup knows the password of its time.
set_password() {
    sql="alter role ${user[$1]} password '$(sed "s/'/''/g" "/run/company-data/${password[$1]}")'"
    said=$(setpriv --reuid postgres --regid postgres --clear-groups postgres --single -D "$2" -c log_statement=none \
        -c log_min_error_statement=panic postgres <<<"$sql" 2>&1) || fail "the server of $1 does not start: $said"
    [[ $said != *ERROR:* ]] || fail "the password of ${user[$1]} was not set. Nothing was changed."
}

restore() {
    for server in operational-db airflow-db; do
        answer=0
        pg_isready --quiet --host "${host[$server]}" || answer=$?
        [[ $answer -ge 2 ]] || fail "$server runs. The backup is good, and nothing was changed. First: docker compose stop"
    done
    now=$(date --utc +%Y-%m-%dT%H%M%SZ)
    for server in operational-db airflow-db; do
        data=/data/$server/${PGDATA#/var/lib/postgresql/}
        rm -rf "$data.restored"
        mkdir --parents "$(dirname "$data")"
        cp --recursive "$folder/$server" "$data.restored"
        pg_verifybackup --quiet "$data.restored" || fail "the copy of $server is damaged. Nothing was changed."
        chown --recursive postgres:postgres "$(dirname "$data")"
        set_password "$server" "$data.restored"
    done
    for server in operational-db airflow-db; do
        data=/data/$server/${PGDATA#/var/lib/postgresql/}
        if [[ -e $data ]]; then mv "$data" "$data.before-$now"; fi
        mv "$data.restored" "$data"
    done
    echo "restored both databases from backups/$folder. Start them: docker compose up --build --wait"
    kept
}

kept() {
    shopt -s nullglob globstar
    before=(/data/**/*.before-*Z)
    if [[ ${#before[@]} -gt 0 ]]; then
        echo "The data that was here before is still on the volumes ($(size "${before[@]}") MB): ${before[*]#/data/}"
        echo "To delete it: docker compose run --rm restore forget"
    fi
}

forget() {
    shopt -s nullglob globstar
    before=(/data/**/*.before-*Z)
    [[ ${#before[@]} -gt 0 ]] || fail "no data of before a restore is on the volumes"
    echo "deleting $(size "${before[@]}") MB: ${before[*]#/data/}"
    rm -rf "${before[@]}"
}

case $command in
    back-up) back_up ;;
    verify) choose ;;
    restore) choose && restore ;;
    forget) forget ;;
    *) fail "the command $command is none of: back-up, verify, restore, forget" ;;
esac
