-- Runs code in Mayfly from psql, waits for the result, and reads a file back.
--
--     psql -X -v ON_ERROR_STOP=1 -f producer.sql
--
-- Connect as a role that has mayfly_producer and was granted the unnamed tenant. Statements are committed
-- one by one (psql's default): a worker can only see a job that was committed, and no transaction stays
-- open while we wait.

-- The wait below ends after so many seconds, and the job is cancelled.
\set limit 120

-- The same as: insert into mayfly.job (kind, payload) values ('code', '{…}') returning id
select mayfly.enqueue('code', $$ {
    "language": "python",
    "source": "print(6 * 7)\nopen('greeting.txt', 'w').write('hello from a microVM')",
    "outputs": ["*.txt"]
} $$, timeout => '30 s') as id
\gset

-- SQL cannot wait for a notification, so it looks again and again. Each look is a transaction of its own.
select set_config('example.id', :'id', false), set_config('example.limit', :'limit', false) \g /dev/null
do $$
declare
    job_id constant bigint := current_setting('example.id');
    deadline constant timestamptz := clock_timestamp()
        + make_interval(secs => current_setting('example.limit')::float8);
begin
    while not exists (select from mayfly.get_job(job_id) where finished_at is not null) loop
        if clock_timestamp() > deadline then
            -- Should it end at this very moment, cancelling changes nothing and the result is there.
            perform mayfly.cancel(job_id);
            exit;
        end if;
        commit;
        perform pg_sleep(0.2);
    end loop;
end $$;

-- State, result and error in one statement: never a state of now with a result of before.
select state, result ->> 'stdout' as stdout, error ->> 'reason' as reason, error ->> 'message' as message
from mayfly.get_job(:id);

-- Files are blobs, named in the result by their SHA-256.
select file ->> 'name' as name, convert_from(mayfly.get_blob(file ->> 'sha256'), 'UTF8') as text
from mayfly.get_job(:id), jsonb_array_elements(result -> 'files') file;
