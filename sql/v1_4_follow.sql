-- Chapter 4: looking at a job while it runs: what its program prints, how far it has come, and what
-- its large files do. The story is in v1_1_tables.sql.
--
-- Output is passed on only while somebody follows it. Who calls mayfly.follow leaves a row in
-- `follower`, good for ten seconds; the worker is told, and from then on stores pieces of what the
-- program prints, four times a second at most, a bounded number of the newest. Nobody calls any more:
-- the next piece is refused with `false`, and the worker stores no further one. When the job has ended
-- the pieces go, for its result has all that may be kept.

-- -------------------------------------------------------------------------------------------------
-- For producers and operators

-- What a running job printed since `after`, the last place that was seen: up to 100 pieces in their
-- order, and nothing for a job that waits or has ended. `stream` is stdout, stderr, or events: lines
-- of JSON, the results of a document's pages for example. A piece begins `at` so many bytes of its
-- stream; where that is beyond the piece before, what lies between was not passed on. `step` counts
-- the programs of a job from 0. `bytes` is how long the piece was before what is no UTF-8, or the
-- character zero, was replaced in `text`. Call it again and again, each time in a transaction of its
-- own, once a second for example; the first answer is empty as a rule.
create function mayfly.follow(id bigint, after bigint default 0)
returns table (place bigint, step int, stream text, at bigint, bytes int, text text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
    held mayfly.running;
    followed_until timestamptz;
begin
    perform mayfly.check_job_id(id);
    select r.* into held from mayfly.running r where r.id = follow.id;
    if not found then
        return;
    end if;
    select max(f.until) into followed_until from mayfly.follower f where f.token = held.token;
    if followed_until is null or followed_until < clock_timestamp() + interval '5 s' then
        insert into mayfly.follower (token, until)
        values (held.token, clock_timestamp() + interval '10 s');
    end if;
    if followed_until is null or followed_until < clock_timestamp() then
        perform mayfly.tell(mayfly.channel('workers'), 'follow ' || held.worker);
    end if;
    return query select p.place, p.step, p.stream, p.at, p.bytes, p.text
        from mayfly.live_output p where p.id = follow.id and p.place > coalesce(after, 0)
        order by p.place limit 100;
end $$;

-- How far a running job's large files are on their way; null for one that moves none.
create function mayfly.get_transfer(id bigint) returns mayfly.transfer language plpgsql stable
security definer set search_path = pg_catalog, pg_temp as $$
declare
    moving mayfly.transfer;
begin
    perform mayfly.check_job_id(id);
    select (r.transfer).* into moving from mayfly.running r where r.id = get_transfer.id;
    return moving;
end $$;

-- -------------------------------------------------------------------------------------------------
-- For workers

create function mayfly.live_pieces_max() returns bigint language sql immutable parallel safe as
$$ select 64::bigint $$;
create function mayfly.live_piece_bytes_max() returns int language sql immutable parallel safe as
$$ select 128 * 1024 $$;

-- Stores the piece number `count` of an attempt; the same again: nothing happens. Answers whether
-- anybody still follows: if not, it is not stored.
create function mayfly.report_output(
    worker bigint, secret uuid, token bigint, count bigint, step int, stream text, at bigint,
    bytes int, text text
) returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
    held mayfly.running := mayfly.check_held(worker, secret, token);
    here bigint := ((held.tries).attempt::bigint << 32) | count;
begin
    if not exists (select from mayfly.follower f
            where f.token = report_output.token and f.until > clock_timestamp()) then
        return false;
    elsif stream is null or stream not in ('stdout', 'stderr', 'events')
            or count is null or count not between 1 and 4294967295
            or octet_length(text) is null or octet_length(text) > mayfly.live_piece_bytes_max() then
        perform mayfly.refuse('MF001', 'this is no piece of a running job''s output',
            format('Count from 1; name stdout, stderr or events; send at most %s bytes.',
                mayfly.live_piece_bytes_max()));
    end if;
    perform set_config('synchronous_commit', 'off', true);
    insert into mayfly.live_output (id, place, step, stream, at, bytes, text)
    values (held.id, here, step, stream, at, bytes, text) on conflict do nothing;
    delete from mayfly.live_output o
        where o.id = held.id and o.place <= here - mayfly.live_pieces_max();
    return true;
end $$;

-- How far a running job has come, in its own words: shown as `progress` of mayfly.job.
create function mayfly.report_progress(worker bigint, secret uuid, token bigint, progress jsonb)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
begin
    perform mayfly.check_held(worker, secret, token);
    if octet_length(progress::text) > 1024 then
        perform mayfly.refuse('MF001', format('a progress of %s bytes is too long',
            octet_length(progress::text)), 'Use at most 1 KiB.');
    end if;
    perform set_config('synchronous_commit', 'off', true);
    update mayfly.running r set progress = report_progress.progress
        where r.token = report_progress.token;
end $$;

-- Notes how far a large file is, and moves the deadline on: what moves is not stuck. Once a second at
-- most, and never for what is done within the first one.
create function mayfly.note_transfer(held mayfly.running, way text, bytes bigint, size bigint)
returns void language plpgsql as $$
begin
    if coalesce((held.transfer).at, held.started_at) > clock_timestamp() - interval '1 s' then
        return;
    end if;
    update mayfly.running r set transfer = row(way, bytes, size, clock_timestamp())::mayfly.transfer,
        deadline_at = greatest(r.deadline_at, clock_timestamp()
            + coalesce(r.timeout, s.timeout_default) + s.deadline_slack)
    from mayfly.setting s where r.token = held.token;
    perform set_config('synchronous_commit', 'off', true);
end $$;

-- Removes what is left of jobs that have ended and of followers that have gone. Part of mayfly.reap.
create function mayfly.drop_live_output() returns void language plpgsql as $$
begin
    if exists (select from mayfly.live_output) then
        delete from mayfly.live_output o
            where not exists (select from mayfly.running r where r.id = o.id);
    end if;
    if exists (select from mayfly.follower) then
        delete from mayfly.follower f where f.until < clock_timestamp() - interval '1 min'
            or not exists (select from mayfly.running r where r.token = f.token);
    end if;
end $$;
