/* One job, two claimers, a reaper, a clock that may expire a lease at any moment, and a store whose answers get lost.
 *
 *   ready --claim: epoch + 1--> leased --complete--> done
 *     ^                           |  ^ renew
 *     +-----------reap------------+--+
 *
 * The claimers are two starts of one factory: the second was started under the same name while the first lived on.
 * Every read may be of the version before. A write may land at once, never, or long after its sender gave up; its
 * answer may be lost, or be a conflict with itself. What a claimer then does is design section 5, as in
 * datastore/confirm.py. Processes may stand still anywhere: that is what interleaving means here.
 *
 * Sound as it stands. Each of these breaks it: READ_CHECK_WRITE, NAME_ONLY, CONFLICT_IS_LOST, UNCHANGED_IS_UNWRITTEN,
 * EPOCH_RESET, REAP_ANYTHING.
 */
#define CLAIMERS 2    /* starts of one factory; a third claimer multiplies the states beyond a minute */
#define EPOCHS 3      /* more are not granted: a bound of the search, not of the protocol */
#define SENDS 2       /* of one conditional write (ATTEMPTS_MAX is 3: a third finds nothing that a second does not) */
#define RENEWALS 1    /* by each holder: without a bound versions would be counted for ever */
#define NAME(who) ((who + 1) / 2)

mtype = { CLAIM, RENEW, COMPLETE }

typedef Document {
  byte etag = 1;
  byte epoch;
  byte holder;        /* 0: nobody. A claimer's number stands for its token and its request id. */
  byte writer;        /* the mark of the last write: whose claim it was, 0 for any other write */
  bool expired;       /* the lease was not renewed in time */
  bool done
}

Document stored;
Document before;      /* the version before: what a stale read shows */
byte owner[EPOCHS + 2];          /* who was ever granted this epoch; what nobody in the model may look at */
bool told_lost[CLAIMERS + 1];
byte gate;            /* what the work writes to: the highest epoch it has seen */

bool late[CLAIMERS + 1];         /* a claim that is still on its way */
byte late_etag[CLAIMERS + 1];
byte late_epoch[CLAIMERS + 1];

inline remember() {
  before.etag = stored.etag; before.epoch = stored.epoch; before.holder = stored.holder;
  before.writer = stored.writer; before.expired = stored.expired; before.done = stored.done
}

/* What a claim changes, and what must never be seen there. */
inline write_claim(who, at_epoch) {
  remember();
  stored.etag++; stored.epoch = at_epoch; stored.holder = who; stored.writer = who; stored.expired = false;
  assert(owner[at_epoch] == 0 || owner[at_epoch] == who);    /* one holder for an epoch */
  assert(!told_lost[who]);                                   /* nobody holds what it was told it has not got */
  owner[at_epoch] = who
}

inline try_claim(claimer, if_etag, to_epoch, landed) {
  d_step {
    landed = (stored.etag == if_etag);
    if
    :: landed -> write_claim(claimer, to_epoch)
    :: else
    fi
  }
}

/* The whole way of one claim: judge, write, and find out what became of it. */
proctype Claimer(byte me) {
  byte etag, epoch, sends, renewals, seen_etag, seen_holder, seen_writer;
  bool landed, conflict, granted, unknown, free;

  /* judge */
  d_step { etag = stored.etag; epoch = stored.epoch; free = !stored.done && (stored.holder == 0 || stored.expired) }
  if
  :: free && epoch < EPOCHS -> skip
  :: else -> goto finished
  fi;
  epoch++;

  do
  :: sends < SENDS ->
    sends++;
    conflict = false;
#ifdef READ_CHECK_WRITE
    if
    :: stored.etag == etag -> d_step { write_claim(me, epoch); granted = true }; break
    :: stored.etag != etag -> conflict = true
    fi;
#else
    if
    :: try_claim(me, etag, epoch, landed);
       if
       :: landed -> granted = true; break                    /* written, and told so */
       :: landed                                             /* written, and the answer was lost */
       :: landed -> conflict = true                          /* written, sent again below us: a conflict with itself */
       :: !landed -> conflict = true
       :: !landed                                            /* another came first, and even that answer was lost */
       fi
    :: skip                                                  /* the request was lost */
    :: atomic { !late[me] -> late[me] = true; late_etag[me] = etag; late_epoch[me] = epoch }
    fi;
#endif
#ifdef CONFLICT_IS_LOST
    if
    :: conflict -> goto lost
    :: else
    fi;
#endif
    /* read once: the version that stands, or the one before */
    if
    :: d_step { seen_etag = stored.etag; seen_holder = stored.holder; seen_writer = stored.writer }
    :: d_step { seen_etag = before.etag; seen_holder = before.holder; seen_writer = before.writer }
    fi;
    if
    :: seen_writer == me -> granted = true; break
    :: seen_writer != me && seen_etag > etag -> goto judged_again
#ifdef UNCHANGED_IS_UNWRITTEN
    :: seen_writer != me && seen_etag <= etag -> goto lost
#else
    :: seen_writer != me && seen_etag <= etag -> skip        /* shows nothing: the same write again */
#endif
    fi
  :: else -> unknown = true; break
  od;

  if
  :: unknown ->
    /* the caller repeats its request id, which is answered from the job document */
    d_step { seen_holder = stored.holder; epoch = (stored.holder == me -> stored.epoch : epoch) };
    if
    :: seen_holder == me -> granted = true
    :: else -> goto finished                                 /* it goes on asking; the model leaves it there */
    fi
  :: else
  fi;
  goto holding;

judged_again:
  /* another version stands: the caller looks for its own request id in it */
  if
  :: seen_holder == me -> goto holding
  :: else
  fi;
lost:
  atomic {
    assert(stored.holder != me || stored.epoch != epoch);    /* what stands is not told to be lost */
    told_lost[me] = true
  };
  goto finished;

holding:
  assert(owner[epoch] == me);                                /* nobody is told of a grant that is not its own */
  do
  :: d_step {                                                /* work that others see, behind a gate that heeds epochs */
      epoch >= gate -> gate = epoch;
      assert(owner[epoch] == me)
    }
  :: d_step {                                                /* renew */
      renewals < RENEWALS && stored.holder == me && stored.epoch == epoch && stored.expired ->
      renewals++; remember(); stored.etag++; stored.writer = 0; stored.expired = false
    }
  :: break
  od;
  skip;
  /* complete: the fence on a version just read, then one conditional write */
  d_step {
    etag = stored.etag;
#ifdef NAME_ONLY
    free = (stored.holder != 0 && NAME(stored.holder) == NAME(me))
#else
    free = (stored.holder == me && stored.epoch == epoch)
#endif
  };
  if
  :: free ->
    d_step {
      if
      :: stored.etag == etag ->
        assert(stored.holder == me && stored.epoch == epoch); /* a stale holder changes nothing */
        remember(); stored.etag++; stored.writer = 0; stored.holder = 0; stored.expired = false; stored.done = true
      :: else
      fi
    }
  :: else
  fi;
finished:
  skip
}

/* Claims that were given up by their senders land, where their condition still holds. */
proctype Network() {
  byte who;
  bool landed;
end:
  do
  :: atomic { late[1] -> who = 1; late[1] = false; try_claim(who, late_etag[1], late_epoch[1], landed) }
  :: atomic { late[2] -> who = 2; late[2] = false; try_claim(who, late_etag[2], late_epoch[2], landed) }
  od
}

proctype Clock() {
end:
  do
  :: d_step { stored.holder != 0 && !stored.expired -> stored.expired = true }
  od
}

proctype Reaper() {
  byte etag;
end:
  do
  :: d_step { stored.holder != 0 && stored.expired -> etag = stored.etag };
    d_step {
      if
#ifdef REAP_ANYTHING
      :: stored.holder != 0 ->
#else
      :: stored.etag == etag && stored.holder != 0 ->
#endif
        assert(stored.expired);                              /* only what was not renewed is taken away */
        remember(); stored.etag++; stored.writer = 0; stored.holder = 0; stored.expired = false;
#ifdef EPOCH_RESET
        stored.epoch = 0
#endif
      :: else
      fi;
      etag = 0
    }
  od
}

init {
  atomic { run Claimer(1); run Claimer(2); run Network(); run Clock(); run Reaper() }
}
