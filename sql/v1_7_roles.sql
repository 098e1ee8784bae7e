-- Chapter 7: who may do what. A producer reaches functions and the view `mayfly.job`, nothing else,
-- and there the jobs of its tenants; a worker reaches what v1_3_work.sql, v1_4_follow.sql and v1_5_egress.sql offer, for the number whose
-- secret it has; an operator reads all and steers. Roles belong to the whole server, so they may
-- exist already. Grant them to the roles that log in, and tenants to producers:
--     grant mayfly_producer to my_backend;
--     select mayfly.grant_tenant('my_backend', '');        -- or 'acme', or '*' for all
--
-- What a producer can still learn of others, and do to them:
--   · Ids come from one sequence, so the gaps between its own ids tell how many jobs others put in;
--     and EXPLAIN ANALYZE of a query of the view tells how many rows of others it passed over, so
--     also whether a given id exists. mayfly.get_job and mayfly.list tell neither. Payloads, results,
--     errors, queues, tenants and keys of others are not seen either way.
--   · The ids of the unnamed tenant's jobs are told on mayfly_done, where everybody may listen.
--   · Whoever may log in can use up the server itself: processor, memory, disk, connections. Give
--     such roles a statement_timeout, an idle_in_transaction_session_timeout and a connection limit.
--   · A transaction that reads the view and stays open keeps old weeks from being dropped; one that
--     cancels many waiting jobs and stays open makes each claim step over them.
-- update and delete on the view are granted to nobody, for with them comes LOCK TABLE, which would
-- lock all tables below it.

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

-- Everything is closed first, and must be closed again at the end of every later version: a new
-- function may be called by everybody who may use the schema until that is revoked.
revoke all on schema mayfly from public;
revoke all on all tables in schema mayfly from public;
revoke all on all functions in schema mayfly from public;
grant usage on schema mayfly to mayfly_producer, mayfly_worker, mayfly_operator;

grant select, insert on mayfly.job to mayfly_producer, mayfly_operator;
grant select on mayfly.reason to mayfly_producer, mayfly_worker, mayfly_operator;
grant execute on function
    mayfly.enqueue(text, jsonb, text, text, int, timestamptz, interval, int, text),
    mayfly.enqueue_many(jsonb),
    mayfly.cancel(bigint),
    mayfly.replay(bigint, boolean),
    mayfly.get_job(bigint),
    mayfly.list(text, text, text, text, timestamptz, timestamptz, int),
    mayfly.done_channel(text),
    mayfly.put_blob(bytea, text),
    mayfly.get_blob(text),
    mayfly.begin_blob(text),
    mayfly.append_blob(bigint, bytea, bigint),
    mayfly.finish_blob(bigint, text),
    mayfly.blob_size(text),
    mayfly.get_blob_part(text, bigint, int),
    mayfly.list_blobs(bigint, text, int),
    mayfly.follow(bigint, bigint),
    mayfly.get_transfer(bigint),
    mayfly.get_egress(bigint),
    mayfly.egress_ceiling(text, text),
    mayfly.secret_key(),
    mayfly.caller(), mayfly.sees_all(), mayfly.tenants(), mayfly.iso(timestamptz)
to mayfly_producer, mayfly_operator;

grant select on mayfly.migration, mayfly.secret_key to mayfly_worker, mayfly_operator;
grant execute on function
    mayfly.register(text, text, text[], text[], int, interval, text, text),
    mayfly.heartbeat(bigint, uuid, interval, bigint[]),
    mayfly.report_health(bigint, uuid, text, text),
    mayfly.worker_channel(),
    mayfly.arm_bell(bigint, uuid, text[], interval),
    mayfly.claim(bigint, uuid, text[], text[], int),
    mayfly.settle(bigint, uuid, bigint, bigint, text, text, text, jsonb, text, text, bytea, bigint,
        jsonb, jsonb, text, boolean, boolean),
    mayfly.give_back(bigint, uuid, bigint[]),
    mayfly.leave(bigint, uuid),
    mayfly.reap(int),
    mayfly.maintain(),
    mayfly.drop_uploads(int),
    mayfly.get_input(bigint, uuid, bigint, text, bigint),
    mayfly.store_blob(bigint, uuid, bigint, text, bytea),
    mayfly.append_upload(bigint, uuid, bigint, bigint, bigint, bytea, bigint),
    mayfly.seal_upload(bigint, uuid, bigint, bigint, text, bigint),
    mayfly.report_output(bigint, uuid, bigint, bigint, int, text, bigint, int, text),
    mayfly.report_progress(bigint, uuid, bigint, jsonb),
    mayfly.get_ceiling(bigint, uuid, bigint),
    mayfly.report_egress(bigint, uuid, bigint, jsonb),
    mayfly.iso(timestamptz)
to mayfly_worker;

grant select on all tables in schema mayfly to mayfly_operator;
revoke all on mayfly.secret from mayfly_operator;
grant update on mayfly.setting to mayfly_operator;
grant execute on function
    mayfly.pause(text),
    mayfly.resume(text),
    mayfly.grant_tenant(name, text),
    mayfly.revoke_tenant(name, text),
    mayfly.publish_secret_key(jsonb),
    mayfly.retire_secret_key(text),
    mayfly.allow_egress(text, text, text[], cidr[]),
    mayfly.deny_egress(text, text, text[], cidr[]),
    mayfly.replay_all(text, text, text, text, timestamptz, timestamptz, int, boolean, boolean),
    mayfly.reap(int),
    mayfly.maintain(),
    mayfly.prune(interval),
    mayfly.position_time(bigint), mayfly.id_at(timestamptz), mayfly.lanes_in_use(),
    mayfly.weeks(text)
to mayfly_operator;

insert into mayfly.migration (version, name) values (1, 'v1');
