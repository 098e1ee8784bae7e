/*
 * The life of a job in Mayfly's queue, for Spin: claim, lease, fence, settle, cancel, reap.
 * Checked by `scripts/model`, which is part of `scripts/test`.
 *
 * Each atomic step that touches the database is one SQL function of sql/v1_2_produce.sql or
 * sql/v1_3_work.sql and is named after it; a function is one transaction, so nothing comes between.
 * What is left out: payloads, priorities, lanes, blobs, retries of a job's own failure. Time is left
 * out, too: a lease may lapse whenever its worker is slow, and whoever may act on it acts in any
 * order.
 *
 * A worker is two processes, as it is two tasks in Swift: one that claims, works and settles, and one
 * that renews the lease (Queue+Lease). Faults come in any order, FAULTS of them in all:
 *
 *   crash         kill -9: what the process knew is gone; it starts again and registers anew
 *   pause         the worker stands still for longer than its lease, then goes on as if nothing were
 *   lost answer   the function was carried out and its answer never came; the worker asks again
 *   restart       the database goes away for longer than every lease; each answer under way is lost
 *   machine lost  the attempt's machine dies; or it never came to life on this host
 *   shutdown      the worker gives back what it holds and leaves
 *
 * What is proven, for every order of events:
 *   - a job has at most one outcome, stored by the attempt that holds it        (assert in finish)
 *   - nobody stores anything for an attempt that is not his any more            (assert in settle)
 *   - `cancelled` is the end of jobs that somebody cancelled, and of no others  (assert in finish)
 *   - `poison` is the end of jobs with enough strikes; a host that cannot make
 *     machines at all gives none                                               (assert in finish)
 *   - nobody loses an attempt while his lease holds                             (assert in reap)
 *   - a worker that is told "fenced" has not stored an outcome                  (assert in settle)
 *   - every job ends                                                            (ltl ends)
 *
 * A mistake can be put in with -D: the checker must find each of them, see scripts/model.
 */

#ifndef JOBS
#define JOBS 1
#endif
#ifndef FAULTS
#define FAULTS 3
#endif
#define WORKERS 2                 /* processes, each on a host of its own */
#define ROWS (WORKERS * (1 + FAULTS))         /* registrations: a new one after each death */
#define TOKENS (1 + JOBS + JOBS * 4 * FAULTS) /* claims: one fault can cost several; 0 is no token */
#define LOSSES_MAX 2              /* mayfly.setting.losses_max; small, so that it is reached */
#define NOBODY 255

mtype = { ready, delayed, running, ended };                          /* where the job's row is */
mtype = { none, succeeded, cancelled, lost, poison, interrupted };   /* how things end */

/* The database. */
mtype place[JOBS] = ready;
byte token[JOBS];                 /* of the running row */
byte holder[JOBS];                /* its worker: a registration */
bool cancel_request[JOBS];
byte strikes[JOBS];
byte lost_on[JOBS];               /* a bit for each host */
mtype outcome[JOBS] = none;
byte last_token;
mtype settled[TOKENS] = none;     /* mayfly.attempt of settled, not reaped, attempts */
bool dead[ROWS];
bool lapsed[ROWS];                /* lease_until has passed */
bool some_lapsed;                 /* of a worker that is not dead yet */
byte host_of[ROWS];
byte last_row;

/* What really happened; the database does not see it. */
bool was_asked[JOBS];             /* somebody called cancel */
byte machines_lost[JOBS];         /* attempts of it that lost a machine which had come to life */
byte faults = FAULTS;

/* Scratch, within one atomic step. */
hidden byte w_, r_, j_;

/* Worker processes. */
byte row[WORKERS] = NOBODY;       /* the registration it goes by */
byte held[WORKERS];               /* the token it holds; 0: none */
byte job[WORKERS];
mtype stop[WORKERS] = none;       /* why it must stop: cancelled, lost, interrupted */
bool crashed[WORKERS];            /* kill -9 came; the process has not started again yet */
bool answer_lost[WORKERS];        /* the next answer of the database does not come */

inline finish(j, how) {
    assert(outcome[j] == none);
    assert(how != cancelled || was_asked[j]);
    assert(how != poison || (strikes[j] >= LOSSES_MAX && machines_lost[j] > 0));
    outcome[j] = how;
    place[j] = ended;
    cancel_request[j] = false;
}

/* mayfly.end_attempt and mayfly.end_lost. `had`: the attempt's machine had come to life. */
inline end_attempt(j, how, host, had) {
    if
    :: how == succeeded -> finish(j, succeeded)
    :: how != succeeded && cancel_request[j] -> finish(j, cancelled)
    :: how == cancelled && !cancel_request[j] -> finish(j, cancelled)   /* only the old rule gets here */
    :: how == interrupted && !cancel_request[j] -> place[j] = ready
    :: how == lost && !cancel_request[j] ->
        if
#ifdef EVERY_LOSS_COUNTS
        :: true -> strikes[j]++
#else
        :: had && !(lost_on[j] & (1 << host)) ->
            strikes[j]++;
            lost_on[j] = lost_on[j] | (1 << host)
        :: else
#endif
        fi;
        if
        :: strikes[j] >= LOSSES_MAX -> finish(j, poison)
        :: else -> place[j] = delayed
        fi
    fi;
    if
    :: place[j] != running -> token[j] = 0; holder[j] = 0
    :: else
    fi
}

/* mayfly.register: a new row, alive; mayfly.worker.identity buries the row before. */
inline register(w) {
    if
    :: row[w] != NOBODY -> dead[row[w]] = true
    :: else
    fi;
    assert(last_row < ROWS);
    row[w] = last_row;
    host_of[last_row] = w;
    last_row++
}

inline lapse(r) {
    if
    :: !dead[r] -> lapsed[r] = true; some_lapsed = true
    :: else
    fi
}

/* An answer came: the attempt is over for this worker. */
#define done(w) held[w] = 0; job[w] = 0; stop[w] = none; how = none; had = false; break

#if JOBS > 1
#define some_ready (place[0] == ready || place[1] == ready)
#define all_ended (place[0] == ended && place[1] == ended)
#else
#define some_ready (place[0] == ready)
#define all_ended (place[0] == ended)
#endif

proctype Working(byte w) {
    mtype how = none;               /* how the attempt ended that it holds */
    bool had;                       /* whether its machine had come to life */

register_first:
    atomic {
        crashed[w] = false; held[w] = 0; job[w] = 0; stop[w] = none; how = none; had = false;
        register(w)
    }
end:
    do
    /* kill -9: starts again, and knows nothing. */
    :: atomic { crashed[w] -> goto register_first }

    /* mayfly.claim; refuses a worker that is dead or whose lease has run out. */
    :: atomic {
        !crashed[w] && held[w] == 0 && !dead[row[w]] && !lapsed[row[w]] && some_ready ->
        if
        :: place[0] == ready -> j_ = 0
#if JOBS > 1
        :: place[1] == ready -> j_ = 1
#endif
        fi;
        last_token++;
        assert(last_token < TOKENS);
        if
        :: cancel_request[j_] -> finish(j_, cancelled)   /* mayfly.drop_cancelled */
        :: else ->
            place[j_] = running;
            token[j_] = last_token;
            holder[j_] = row[w];
            if
            :: answer_lost[w] -> answer_lost[w] = false  /* it holds a job and does not know */
            :: else -> held[w] = last_token; job[w] = j_; stop[w] = none
            fi
        fi
       }

    /* The attempt is over, in one way or another. Attempt.swift: Outcome(result, stopped:) */
    :: atomic {
        !crashed[w] && held[w] != 0 ->
        had = true;
        if
        :: stop[w] == none -> how = succeeded
        :: stop[w] == none && faults > 0 -> faults--; how = lost; machines_lost[job[w]]++
        :: stop[w] == none && faults > 0 -> faults--; how = lost; had = false  /* never restored */
        :: stop[w] == cancelled -> how = cancelled
        :: stop[w] == interrupted -> how = interrupted
#ifdef LOST_BECOMES_CANCELLED
        :: stop[w] == lost -> how = cancelled
#else
        :: stop[w] == lost -> how = lost; had = false
#endif
        fi
       };
       do
       /* mayfly.settle, until an answer came. */
       :: atomic {
            !crashed[w] ->
            j_ = job[w];
            if
#ifdef NO_FENCE
            :: place[j_] == running ->
#else
            :: place[j_] == running && token[j_] == held[w] && holder[j_] == row[w] ->
#endif
                if
#ifndef LOST_BECOMES_CANCELLED
                :: how == cancelled && !cancel_request[j_] -> how = lost     /* MF008 */
#endif
                :: else ->
                    assert(token[j_] == held[w]);
                    settled[held[w]] = how;
                    end_attempt(j_, how, w, had);
                    if
                    :: answer_lost[w] -> answer_lost[w] = false             /* asks again */
                    :: else -> done(w)
                    fi
                fi
#ifndef FORGETS_SETTLED
            :: !(place[j_] == running && token[j_] == held[w]) && settled[held[w]] != none ->
                done(w)                          /* settled_before */
#endif
            :: else ->                                                      /* MF005: fenced */
                assert(settled[held[w]] == none);
                done(w)
            fi
          }
       :: atomic { crashed[w] -> goto register_first }
       od
    od
}

/* The lease: heartbeats, what they answer, and the worker's own clock. */
proctype Renewing(byte w) {
end:
    do
    /* mayfly.heartbeat */
    :: atomic {
        !crashed[w] && row[w] != NOBODY && !dead[row[w]] ->
        lapsed[row[w]] = false;
        if
        :: held[w] != 0 && stop[w] == none ->
            j_ = job[w];
            if
            :: !(place[j_] == running && token[j_] == held[w]) && settled[held[w]] == none ->
                stop[w] = lost
            :: place[j_] == running && token[j_] == held[w] && cancel_request[j_] ->
                stop[w] = cancelled
            :: else
            fi
        :: else
        fi;
#ifndef NO_GIVE_BACK
        /* 'unknown': mayfly.give_back of what this worker holds without knowing. */
        j_ = 0;
        do
        :: j_ < JOBS ->
            if
            :: place[j_] == running && holder[j_] == row[w] && token[j_] != held[w] ->
                end_attempt(j_, interrupted, w, false)
            :: else
            fi;
            j_++
        :: else -> break
        od
#endif
       }
    /* MF006: declared dead. Stops all work and registers again. */
    :: atomic {
        !crashed[w] && row[w] != NOBODY && dead[row[w]] ->
        if
        :: held[w] != 0 && stop[w] == none -> stop[w] = lost
        :: else
        fi;
        register(w)
       }
    /* Queue.watchLease: the lease ran out by its own clock. */
    :: atomic {
        !crashed[w] && row[w] != NOBODY && lapsed[row[w]] && held[w] != 0 && stop[w] == none ->
        stop[w] = lost
       }
    od
}

/* mayfly.reap, by whichever worker: declares dead whose lease has run out; gives back what the dead
   held (lease_lost: it speaks against the job once for each host); ends what was cancelled between
   two attempts (end_cancelled); makes ready what is due again (promote). */
#ifdef REAPS_THE_LIVING
#define may_be_reaped(j) (place[j] == running)
#else
#define may_be_reaped(j) (place[j] == running && dead[holder[j]])
#endif
#define waits(j) (place[j] == ready || place[j] == delayed)

inline reap(j) {
    assert(dead[holder[j]]);
    machines_lost[j]++;
    end_attempt(j, lost, host_of[holder[j]], true)
}

proctype Reaping() {
end:
    do
    :: atomic {
        some_lapsed ->
        r_ = 0;
        do
        :: r_ < last_row -> if :: lapsed[r_] -> dead[r_] = true; lapsed[r_] = false :: else fi; r_++
        :: else -> break
        od;
        some_lapsed = false
       }
#ifndef NO_REAP
    :: atomic { may_be_reaped(0) -> reap(0) }
#endif
    :: atomic { waits(0) && cancel_request[0] -> finish(0, cancelled) }
    :: atomic { place[0] == delayed -> place[0] = ready }
#if JOBS > 1
#ifndef NO_REAP
    :: atomic { may_be_reaped(1) -> reap(1) }
#endif
    :: atomic { waits(1) && cancel_request[1] -> finish(1, cancelled) }
    :: atomic { place[1] == delayed -> place[1] = ready }
#endif
    od
}

/* mayfly.cancel, by a producer, perhaps. */
proctype Cancelling() {
    atomic {
        if
        :: true
        :: place[0] == ready || place[0] == delayed -> was_asked[0] = true; finish(0, cancelled)
        :: place[0] == running -> was_asked[0] = true; cancel_request[0] = true
        fi
    }
}

/* What goes wrong outside: FAULTS times, at any moment. */
proctype Failing() {
    do
    :: atomic { faults == 0 -> break }
    :: atomic {
        faults > 0 -> faults--;
        if
        :: w_ = 0
        :: w_ = 1
        fi;
        if
        /* crash: its lease lapses by itself */
        :: row[w_] != NOBODY && !crashed[w_] -> crashed[w_] = true; lapse(row[w_]);
            answer_lost[w_] = false
        /* pause */
        :: row[w_] != NOBODY && !dead[row[w_]] -> lapse(row[w_])
        /* lost answer */
        :: answer_lost[w_] = true
        /* restart of the database */
        :: answer_lost[0] = true; answer_lost[1] = true;
            r_ = 0;
            do
            :: r_ < last_row -> lapse(r_); r_++
            :: else -> break
            od
        /* shutdown: Queue.interruptAll */
        :: held[w_] != 0 && stop[w_] == none -> stop[w_] = interrupted
        fi
       }
    od
}

init {
    atomic {
        run Working(0); run Working(1);
        run Renewing(0); run Renewing(1);
        run Reaping(); run Cancelling(); run Failing()
    }
}

/* Under weak fairness: whoever can go on goes on some day. */
ltl ends { <> all_ended }
