-- Chapter 6: what operators do and see: pause and resume, grants, bulk replay, the upkeep of
-- history, statistics and health. The story is in v1_1_tables.sql.

-- -------------------------------------------------------------------------------------------------
-- Steering

create function mayfly.pause(queue text) returns void language sql security definer
set search_path = pg_catalog, pg_temp as $$
    insert into mayfly.queue as q (queue, paused, paused_at, paused_by)
    values (pause.queue, true, now(), mayfly.caller())
    on conflict (queue) do update set paused = true, paused_at = now(), paused_by = mayfly.caller()
        where not q.paused
$$;

create function mayfly.resume(queue text) returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    update mayfly.queue q set paused = false, paused_at = null, paused_by = null
        where q.queue = resume.queue and q.paused;
    perform mayfly.tell(mayfly.channel('workers'), 'job ' || queue);
end $$;

create function mayfly.check_role(role name) returns oid language plpgsql stable as $$
declare
    number oid := (select r.oid from pg_roles r where r.rolname = role);
begin
    if number is null then
        perform mayfly.refuse('MF001', format('there is no role %I', role), 'Create it first.');
    end if;
    return number;
end $$;

-- Lets a role, and whoever is a member of it, enqueue, see, cancel and replay the jobs of a tenant.
-- '' is the tenant of those who do not think in tenants; '*' are all.
create function mayfly.grant_tenant(role name, tenant text) returns void language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into mayfly.tenant_grant (role, tenant) values (mayfly.check_role(role), tenant)
        on conflict do nothing;
end $$;

create function mayfly.revoke_tenant(role name, tenant text) returns void language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
begin
    delete from mayfly.tenant_grant g where g.role = mayfly.check_role(revoke_tenant.role)
        and g.tenant = revoke_tenant.tenant;
end $$;

-- Publishes a public key: from now on producers seal secrets with it. Again: it becomes the newest.
-- Copy its private half to every host with a worker first.
create function mayfly.publish_secret_key(jwk jsonb) returns text language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
declare
    kid text := jwk ->> 'kid';
begin
    if jwk ? 'd' then
        perform mayfly.refuse('MF011', 'this is a private key: it has a member d',
            'Publish its public half, and make another key: this one was shown to the server.');
    elsif kid is null or kid !~ '^[0-9a-f]{16}$' or jwk ->> 'kty' is distinct from 'EC'
            or jwk ->> 'crv' is distinct from 'P-256' or jwk ->> 'x' !~ '^[A-Za-z0-9_-]{43}$'
            or jwk ->> 'y' !~ '^[A-Za-z0-9_-]{43}$' or num_nulls(jwk ->> 'x', jwk ->> 'y') > 0 then
        perform mayfly.refuse('MF011', 'this is no public key that mayfly secret keygen made',
            'Run `mayfly secret keygen`, or `mayfly secret publish KID` on a host with the key.');
    end if;
    insert into mayfly.secret_key as k (kid, jwk) values (kid, publish_secret_key.jwk)
    on conflict on constraint secret_key_pkey do update
        set jwk = excluded.jwk, created_at = excluded.created_at, retired_at = null;
    return kid;
end $$;

-- From now on nobody seals with this key. Workers that have it still open what was sealed before.
create function mayfly.retire_secret_key(kid text) returns void language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
begin
    update mayfly.secret_key k set retired_at = coalesce(k.retired_at, now())
        where k.kid = retire_secret_key.kid;
    if not found then
        perform mayfly.refuse('MF011', format('there is no key %L', kid),
            'Look for it with `mayfly secret list`.');
    end if;
end $$;

-- Replays all that fit and answers which became which; jobs that were replayed already are left
-- out, so calling it twice does no harm. dry_run: only says which. What cannot be replayed pinned
-- comes back without a new id and with the reason, and stops no other.
create function mayfly.replay_all(
    state text default 'failed', kind text default null, queue text default null,
    tenant text default null, since timestamptz default null, until timestamptz default null,
    limit_rows int default 1000, pinned boolean default false, dry_run boolean default false
) returns table (original bigint, id bigint, refusal text) language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    if state is null or state not in ('succeeded', 'failed', 'cancelled') then
        perform mayfly.refuse('MF001', format('jobs in the state %s cannot be replayed',
            coalesce(quote_literal(state), 'null')), 'Use succeeded, failed or cancelled.');
    end if;
    return query
        select j.id, case when x.refusal is null and not dry_run then mayfly.replay(j.id, pinned) end,
            x.refusal
        from unnest(mayfly.find(state, kind, queue, mayfly.visible_tenants(tenant), since, until,
                limit_rows, true)) j (id)
            cross join lateral (select case when pinned and mayfly.pin_of(j.id) is null
                then 'no attempt of it got as far as a machine' end as refusal) x
        order by j.id;
end $$;

-- -------------------------------------------------------------------------------------------------
-- Upkeep of history. Partitions are one week of ids each, made ahead, dropped when old: any worker
-- does that, without being asked, one at a time. mayfly.maintain does one bounded step and answers
-- what it did; call it in a transaction of its own again and again until it answers nothing. No step
-- waits for a lock longer than 50 ms, for whoever waits for a whole table makes everybody else wait
-- behind him; what was in use then is tried again later, and mayfly.health shows it.

create function mayfly.week_of(relation text) returns text language sql immutable as
$$ select substring(relation from '_([0-9]{4}w[0-9]{2})$') $$;
create function mayfly.week_start(label text) returns timestamptz language sql stable as
$$ select to_date(label, 'IYYY"w"IW')::timestamp at time zone 'UTC' $$;

-- The weeks for which `parent` has a partition.
create function mayfly.weeks(parent text) returns table (label text, low bigint, high bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select w.label, mayfly.id_at(mayfly.week_start(w.label)),
        mayfly.id_at(mayfly.week_start(w.label) + interval '7 days')
    from (select mayfly.week_of(c.relname) from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = to_regclass('mayfly.' || parent)) w (label)
$$;

create function mayfly.history_tables() returns text[] language sql immutable as
$$ select array['job_data', 'outcome', 'attempt', 'blob_use', 'egress'] $$;

-- Makes the partitions of the week in which `at` lies; answers its name, or null if all were there.
create function mayfly.make_week(at timestamptz) returns text language plpgsql as $$
declare
    week constant timestamptz := date_trunc('week', at, 'UTC');
    label constant text := to_char(week at time zone 'UTC', 'IYYY"w"IW');
    parent text;
    made text;
begin
    foreach parent in array mayfly.history_tables() loop
        continue when to_regclass(format('mayfly.%I', parent || '_' || label)) is not null;
        execute format('create table mayfly.%I (like mayfly.%I including defaults
            including constraints)', parent || '_' || label, parent);
        execute format('alter table mayfly.%I attach partition mayfly.%I for values from (%s) to (%s)',
            parent, parent || '_' || label, mayfly.id_at(week),
            mayfly.id_at(week + interval '7 days'));
        made := label;
    end loop;
    return made;
end $$;

do $$ begin
    perform mayfly.make_week(now() + n * interval '7 days') from generate_series(0, 8) n;
end $$;

-- Whether the jobs of a week must stay: one of them is alive, or ended less than `kept` ago.
create function mayfly.is_week_used(low bigint, high bigint, kept interval) returns boolean
language sql stable as $$
    select exists (select from mayfly.ready r where r.id >= low and r.id < high)
        or exists (select from mayfly.delayed d where d.id >= low and d.id < high)
        or exists (select from mayfly.running n where n.id >= low and n.id < high)
        or exists (select from mayfly.outcome o where o.id >= low and o.id < high
            and o.finished_at > now() - kept)
$$;

-- Drops one partition of a week that is over for longer than `kept`: job_data first, so that no job
-- is ever seen without its outcome. Answers what it dropped, or null.
create function mayfly.drop_week(kept interval) returns text language plpgsql as $$
declare
    week record;
    waiting text;
begin
    for week in
        select t.parent, w.* from unnest(mayfly.history_tables()) with ordinality t (parent, n)
            cross join lateral mayfly.weeks(t.parent) w
        where w.high <= mayfly.id_at(now() - kept)
        order by w.low, t.n
    loop
        continue when mayfly.is_week_used(week.low, week.high, kept);
        begin
            execute format('drop table mayfly.%I', week.parent || '_' || week.label);
            return format('dropped %s of week %s', week.parent, week.label);
        exception when lock_not_available then
            waiting := format('%s of week %s was in use and could not be dropped',
                week.parent, week.label);
            exit;                        -- the rest of the week would be seen without it
        end;
    end loop;
    update mayfly.duty d set note = waiting where d.duty = 'maintain'
        and d.note is distinct from waiting;
    return null;
end $$;

-- Gives up blobs that were put longer than `kept` ago and that no job names, and older copies of the
-- same bytes; a few at a time. From now on nobody can read them; drop_uploads removes their bytes.
-- Answers how many.
create function mayfly.drop_blobs(kept interval) returns int language plpgsql as $$
declare
    numbers bigint[];
begin
    select array_agg(x.blob) into numbers from (
        select b.blob from mayfly.blob b
        where b.sha256 is not null and (
            (b.put_at < now() - kept - interval '1 day' and not exists (
                select from mayfly.blob_use u
                where u.sha256 = b.sha256 and u.tenant = b.tenant))
            or (b.put_at < now() - interval '1 day' and exists (
                select from mayfly.blob n where n.sha256 = b.sha256 and n.tenant = b.tenant
                    and (n.put_at, n.blob) > (b.put_at, b.blob)
                    and n.put_at < now() - interval '1 hour')))
        order by b.put_at limit 32 for update skip locked) x;
    update mayfly.blob b set sha256 = null, parts = null, token = 0 where b.blob = any (numbers);
    return coalesce(cardinality(numbers), 0);
end $$;

-- Removes what nobody can read any more: uploads of attempts that are over, of producers after a
-- day, blobs that were given up; at most `limit_parts` parts (64 MiB) at a time. Any worker calls
-- it every minute until it answers 0: nothing is left, or somebody else is at it.
create function mayfly.drop_uploads(limit_parts int default 256) returns int language plpgsql
security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
    number bigint;
    gone int;
    sum int := 0;
begin
    while sum < limit_parts loop
        select b.blob into number from mayfly.blob b
        where b.sha256 is null and case when b.token is null
            then b.put_at < now() - interval '1 day'
            else not exists (select from mayfly.running r where r.token = b.token) end
        order by b.put_at limit 1 for update skip locked;
        exit when not found;
        delete from mayfly.blob_chunk c where c.blob = number and c.ordinal in (
            select x.ordinal from mayfly.blob_chunk x where x.blob = number
            order by x.ordinal desc limit limit_parts - sum);
        get diagnostics gone = row_count;
        sum := sum + gone;
        exit when sum >= limit_parts;
        delete from mayfly.blob b where b.blob = number;
        sum := sum + 1;
    end loop;
    return sum;
end $$;

-- Lanes that were empty for a day, in two steps: first producers stop relying on them, and once
-- every transaction that may have relied on one has ended, it goes. Then dead workers, requests that
-- came too late, and grants to roles that no longer exist.
create function mayfly.sweep() returns void language plpgsql as $$
begin
    delete from mayfly.lane l where l.closing
        and pg_snapshot_xmin(pg_current_snapshot()) > l.next_xid
        and l.used_at < now() - interval '1 day'
        and not exists (select from mayfly.ready r
            where (r.queue, r.kind, r.priority) = (l.queue, l.kind, l.priority));
    update mayfly.lane l set closing = true, next = null, next_xid = pg_current_xact_id()
        where not l.closing and l.used_at < now() - interval '1 day' and not exists (
            select from mayfly.ready r
            where (r.queue, r.kind, r.priority) = (l.queue, l.kind, l.priority));
    delete from mayfly.worker w where w.dead and w.lease_until < now() - interval '7 days'
        and not exists (select from mayfly.running r where r.worker = w.worker);
    delete from mayfly.cancel_request c where c.at < now() - interval '1 day' and not exists (
        select from mayfly.job_data d where d.id = c.id);
    delete from mayfly.tenant_grant g where not exists (
        select from pg_roles r where r.oid = g.role);
end $$;

create function mayfly.maintain_step(kept interval) returns text language plpgsql as $$
declare
    done text;
    blobs int;
    parts int;
begin
    for n in 0 .. 8 loop
        done := mayfly.make_week(now() + n * interval '7 days');
        if done is not null then
            return 'made week ' || done;
        end if;
    end loop;
    if kept is not null then
        done := mayfly.drop_week(kept);
        if done is not null then
            return done;
        end if;
        blobs := mayfly.drop_blobs(kept);
    end if;
    parts := mayfly.drop_uploads();
    if blobs > 0 then
        return format('removed %s blobs', blobs);
    elsif parts > 0 then
        return 'removed uploads that came to nothing and bytes of removed blobs';
    end if;
    perform mayfly.sweep();
    return null;
end $$;

-- One step of upkeep by the operator's setting. Any worker may call it.
create function mayfly.maintain() returns setof text language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '50 ms' as $$
declare
    done text;
begin
    perform from mayfly.duty d where d.duty = 'maintain' for update skip locked;
    if found then
        done := mayfly.maintain_step((select s.retention from mayfly.setting s));
        if done is not null then
            return next done;
        end if;
    end if;
end $$;

-- The same by a retention of the caller's, an operator: `mayfly prune`.
create function mayfly.prune(retention interval) returns setof text language plpgsql
security definer set search_path = pg_catalog, pg_temp set lock_timeout = '50 ms' as $$
declare
    done text;
begin
    if retention is null or retention < interval '1 day' then
        perform mayfly.refuse('MF001', format('the retention %s is shorter than a day',
            coalesce(retention::text, 'null')), 'Use at least 1 day.');
    end if;
    perform from mayfly.duty d where d.duty = 'maintain' for update skip locked;
    if found then
        done := mayfly.maintain_step(retention);
        if done is not null then
            return next done;
        end if;
    end if;
end $$;

-- -------------------------------------------------------------------------------------------------
-- Numbers

create view mayfly.stats as
with now_there as (
    select queue, kind, count(*) as ready, 0::bigint as delayed, 0::bigint as running,
        min(mayfly.position_time(pos)) as oldest from mayfly.ready group by 1, 2
    union all
    select queue, kind, 0, count(*), 0, null from mayfly.delayed group by 1, 2
    union all
    select queue, kind, 0, 0, count(*), null from mayfly.running group by 1, 2),
ended as (
    select d.queue, d.kind, count(*) filter (where o.state = 'succeeded') as succeeded,
        count(*) filter (where o.state = 'failed') as failed,
        count(*) filter (where o.state = 'cancelled') as cancelled
    from mayfly.outcome o join mayfly.job_data d on d.id = o.id
    where o.finished_at > now() - interval '1 hour'
        and o.id >= mayfly.id_at(now() - interval '25 hours')
        and d.id >= mayfly.id_at(now() - interval '25 hours')
    group by 1, 2)
select queue, kind, coalesce(sum(n.ready), 0)::bigint as ready,
    coalesce(sum(n.delayed), 0)::bigint as delayed,
    coalesce(sum(n.running), 0)::bigint as running,
    greatest(now() - min(n.oldest), interval '0') as oldest_ready,
    coalesce(max(e.succeeded), 0) as succeeded_last_hour,
    coalesce(max(e.failed), 0) as failed_last_hour,
    coalesce(max(e.cancelled), 0) as cancelled_last_hour,
    coalesce(bool_or(q.paused), false) as paused
from now_there n full join ended e using (queue, kind) left join mayfly.queue q using (queue)
group by queue, kind;

create view mayfly.live_worker as
select * from mayfly.worker where not dead and lease_until > now();

-- One row per thing that can be wrong, with what to do about it.
create view mayfly.health as
select 'workers' as name, count(*) > 0 as ok, count(*) || ' alive' as found,
    'Start a worker: mayfly worker.' as remedy
from mayfly.live_worker
union all
select 'hosts', count(*) = 0, coalesce(string_agg(format('%s on %s since %s: %s', name, host,
        date_trunc('second', health_since), coalesce(health_note, 'no reason given')), '; '),
        'all workers can run jobs'),
    'Run mayfly doctor on the host; the worker takes jobs again as soon as a machine is restored.'
from mayfly.live_worker where health <> 'ok'
union all
select 'lapsed', count(*) = 0, count(*) || ' attempts of workers whose lease ran out over 30 s ago',
    'Some worker must be alive to give them back.'
from mayfly.running r join mayfly.worker w using (worker)
    where w.lease_until < now() - interval '30 s'
union all
select 'waiting', coalesce(now() - min(mayfly.position_time(pos)) < interval '5 min', true),
    coalesce('the oldest has been waiting since ' || date_trunc('second', min(mayfly.position_time(pos))),
        'none waits'),
    'Add workers or slots, or look for a paused queue.'
from mayfly.ready r where not exists (select from mayfly.queue q where q.queue = r.queue
    and q.paused)
union all
select 'kinds', count(*) = 0, coalesce('no live worker takes ' || string_agg(
        format('%s from queue %s', kind, queue), ', '), 'all are taken by a live worker'),
    'Start a worker that has an image for the kind, or cancel the jobs if the kind is a slip.'
from (select distinct p.kind, p.queue from mayfly.lanes_in_use() p where not exists (
    select from mayfly.live_worker w where p.kind = any (w.kinds)
        and (cardinality(w.queues) = 0 or p.queue = any (w.queues)))) k
union all
select 'paused', count(*) = 0, coalesce('paused: ' || string_agg(queue, ', '), 'none is paused'),
    'mayfly.resume(queue)'
from mayfly.queue where paused
union all
select 'partitions', count(*) >= 2, 'weeks ahead: ' || count(*),
    'Keep a worker running, or call mayfly.maintain() until it answers nothing: without a partition'
        || ' for the week nothing can be enqueued.'
from mayfly.weeks('job_data') where low > mayfly.id_at(now())
union all
select 'history', d.note is null, coalesce(d.note, 'as old as it should be'),
    'Look for a long transaction that read mayfly.job: select * from pg_stat_activity.'
from mayfly.duty d where d.duty = 'maintain'
union all
select 'notifications', pg_notification_queue_usage() < 0.5,
    round(pg_notification_queue_usage()::numeric * 100) || ' % of the server''s queue is used',
    'A session that listens in a long transaction keeps them; workers and backends poll meanwhile.';
