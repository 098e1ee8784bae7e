-- Who may do what. A producer reaches functions and the view `mayfly.job`, nothing else, and there
-- the jobs of its tenants; a worker reaches what v3_work.sql offers; an operator reads all and
-- steers. Roles belong to the whole server, so they may exist already. Grant them to the roles that
-- log in:
--     grant mayfly_producer to my_backend;
--     select mayfly.grant_tenant('my_backend', 'acme');    -- without: only the unnamed tenant ''

insert into mayfly.migration (version, name) values (5, 'v5_roles');

do $$
declare
    wanted text;
begin
    foreach wanted in array array['mayfly_producer', 'mayfly_worker', 'mayfly_operator'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin', wanted);
            exception
                when duplicate_object or unique_violation
                    then null;   -- another database's migration
                when insufficient_privilege then
                    raise exception using errcode = 'MF001',
                        message = format('the role %I does not exist and %I may not create it',
                            wanted, current_user),
                        hint = format('Have a superuser run: create role mayfly_producer; '
                            'create role mayfly_worker; create role mayfly_operator;');
            end;
        end if;
    end loop;
end $$;

revoke all on schema mayfly from public;
revoke all on all tables in schema mayfly from public;
revoke all on all functions in schema mayfly from public;
grant usage on schema mayfly to mayfly_producer, mayfly_worker, mayfly_operator;

-- Producers. update and delete are granted so that the refusal, with its advice, is what they meet.
grant select, insert, update, delete on mayfly.job to mayfly_producer, mayfly_operator;
grant select on mayfly.reason to mayfly_producer, mayfly_worker, mayfly_operator;
grant execute on function
    mayfly.enqueue(text, jsonb, text, text, int, timestamptz, interval, int, text),
    mayfly.enqueue_many(jsonb),
    mayfly.cancel(bigint),
    mayfly.replay(bigint, boolean),
    mayfly.list(text, text, text, text, timestamptz, timestamptz, int),
    mayfly.put_blob(bytea),
    mayfly.get_blob(text),
    mayfly.caller(), mayfly.sees_all(), mayfly.tenants(), mayfly.iso(timestamptz)
to mayfly_producer, mayfly_operator;

grant select on mayfly.migration to mayfly_worker, mayfly_operator;
grant execute on function
    mayfly.register(text, text, text[], text[], int, interval, text),
    mayfly.heartbeat(bigint, interval, bigint[]),
    mayfly.arm_bell(text[], interval),
    mayfly.claim(bigint, text[], text[], int),
    mayfly.settle(bigint, bigint, bigint, text, text, text, jsonb, text, text, bytea, bigint, jsonb,
        jsonb, text),
    mayfly.give_back(bigint, bigint[]),
    mayfly.leave(bigint),
    mayfly.reap(int),
    mayfly.maintain(interval),
    mayfly.put_blob(bytea),
    mayfly.get_blob(text),
    mayfly.put_blob_part(text, int, bytea),
    mayfly.seal_blob(text, bigint),
    mayfly.iso(timestamptz)
to mayfly_worker;

grant select on all tables in schema mayfly to mayfly_operator;
grant update on mayfly.setting to mayfly_operator;
grant execute on function
    mayfly.pause(text),
    mayfly.resume(text),
    mayfly.grant_tenant(name, text),
    mayfly.revoke_tenant(name, text),
    mayfly.replay_all(text, text, text, text, timestamptz, timestamptz, int, boolean, boolean),
    mayfly.reap(int),
    mayfly.maintain(interval),
    mayfly.position_time(bigint), mayfly.id_at(timestamptz), mayfly.lanes_in_use()
to mayfly_operator;
