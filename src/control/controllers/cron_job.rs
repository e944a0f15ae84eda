//! CronJob controller. Makes a Job when its schedule says so, and deletes the old ones.
//!
//! A job is named after the minute that it is for, so that none is made twice. What was started is read from the jobs
//! themselves, which say their time in an annotation: a restart between the job and the status loses nothing.
//!
//! Source: kubernetes `pkg/controller/cronjob/{cronjob_controllerv2,utils}.go`.

use std::sync::Arc;

use client::events::{NORMAL, WARNING, reference};
use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, Clock, DeleteParams, Key, Object, Propagation, Recorder, Result, Revision, Selector};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use types::cron::Schedule;

use super::job::finished;
use crate::{Context, pods};

mod times;

const NAME: &str = "cronjob-controller";
/// CronJobs worked on at once; upstream's `--concurrent-cron-job-syncs`.
const WORKERS: usize = 5;
/// Which time of the schedule a job is for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// So much after its time a job is made, so that clocks that are corrected a little do not make it early.
const LATER: SignedDuration = SignedDuration::from_millis(100);

/// What a plan is made from.
pub struct Observed<'a> {
    pub cron: &'a CronJob,
    /// The jobs that it controls.
    pub jobs: &'a [Arc<Job>],
    /// Up to where `jobs` are known.
    pub known: Revision,
    /// The zone of its schedule; `None`: there is none of this name.
    pub zone: Option<TimeZone>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Delete(Key, String),
    Status(Box<CronJob>),
    Create(Box<Job>),
    /// Whether it warns, reason, message.
    Event(bool, &'static str, String),
}

fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.name(), at.as_second().div_euclid(60))
}

/// The time that a job was made for, if this controller made it.
fn scheduled(cron: &CronJob, job: &Job) -> Option<Timestamp> {
    let at: Timestamp = job.annotation(SCHEDULED)?.parse().ok()?;
    (job.name() == job_name(cron, at)).then_some(at)
}

pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let cron = observed.cron;
    let spec = &cron.spec;
    let mut status = cron.status.clone().unwrap_or_default();
    let mut active = status.active.take().unwrap_or_default();
    let mut events = Vec::new();
    let deleted = history(observed, spec, &mut active);
    follow(observed, &mut status, &mut active, &mut events);
    let due = if cron.is_terminating() { None } else { due(observed, spec, &status, now, &mut plan, &mut events) };
    let start = due.filter(|at| may_start(observed, spec, *at, &mut status, &active, now, &mut events));
    let replaced = start.filter(|_| spec.concurrency_policy.as_deref() == Some("Replace")).is_some();
    let stopped: Vec<&Arc<Job>> =
        observed.jobs.iter().filter(|j| replaced && active.iter().any(|a| a.uid.as_deref() == Some(j.uid()))).collect();
    active.retain(|a| !stopped.iter().any(|j| a.uid.as_deref() == Some(j.uid())));

    for job in deleted.iter().chain(&stopped) {
        plan.push(Action::Delete(job.key(), job.uid().into()), format!("{} is not wanted any more", job.name()));
    }
    status.active = Some(active).filter(|a| !a.is_empty());
    let mut known = cron.status.clone().unwrap_or_default();
    known.active = known.active.filter(|a| !a.is_empty());
    if known != status {
        plan.push(Action::Status(Box::new(CronJob { status: Some(status), ..cron.clone() })), "status changed");
    }
    for (warns, reason, message) in events {
        plan.push(Action::Event(warns, reason, message), reason);
    }
    if let Some(at) = start {
        plan.push(Action::Create(Box::new(new_job(cron, spec, at))), format!("it is {at}"));
    }
    plan
}

type Events = Vec<(bool, &'static str, String)>;

/// The oldest jobs that ended, beyond those that are kept.
fn history<'a>(observed: &Observed<'a>, spec: &CronJobSpec, active: &mut Vec<ObjectReference>) -> Vec<&'a Arc<Job>> {
    let mut gone = Vec::new();
    for (condition, kept) in
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)]
    {
        let Some(kept) = kept.map(|n| usize::try_from(n).unwrap_or(0)) else { continue };
        let ended = |j: &&Arc<Job>| finished(j).is_some_and(|c| c.type_ == condition) && !j.is_terminating();
        let mut ended: Vec<&Arc<Job>> = observed.jobs.iter().filter(ended).collect();
        let started = |j: &Job| j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        // Those that never started last.
        ended.sort_by_key(|j| (started(j).is_none(), started(j), j.name().to_owned()));
        let excess = ended.len().saturating_sub(kept);
        gone.extend(ended.into_iter().take(excess));
    }
    active.retain(|a| !gone.iter().any(|j| a.uid.as_deref() == Some(j.uid())));
    gone
}

/// Brings the status up to what the jobs are.
fn follow(observed: &Observed<'_>, status: &mut CronJobStatus, active: &mut Vec<ObjectReference>, events: &mut Events) {
    for job in observed.jobs {
        let listed = active.iter().position(|a| a.uid.as_deref() == Some(job.uid()));
        let time = scheduled(observed.cron, job);
        if let Some(time) = time
            && status.last_schedule_time.as_ref().is_none_or(|t| t.0 < time)
        {
            status.last_schedule_time = Some(Time(time));
        }
        let Some(end) = finished(job) else {
            match (listed, time) {
                (None, Some(_)) if !job.is_terminating() => active.push(reference(&**job)),
                (None, None) if !job.is_terminating() => {
                    let text = format!("Saw a job that the controller did not create or forgot: {}", job.name());
                    events.push((true, "UnexpectedJob", text));
                }
                _ => {}
            }
            continue;
        };
        if let Some(at) = listed {
            active.remove(at);
            let text = format!("Saw completed job: {}, condition: {}", job.name(), end.type_);
            events.push((false, "SawCompletedJob", text));
        }
        let completed = job.status.as_ref().and_then(|s| s.completion_time.clone()).filter(|_| end.type_ == "Complete");
        let since = |t: &Option<Time>| t.as_ref().map(|t| t.0);
        if since(&completed) > since(&status.last_successful_time) {
            status.last_successful_time = completed;
        }
    }
    active.retain(|a| {
        // A job that is younger than what is known is on its way.
        let young = Revision::parse(a.resource_version.as_deref().unwrap_or_default()) > observed.known;
        let stays = young || observed.jobs.iter().any(|j| a.uid.as_deref() == Some(j.uid()));
        if !stays {
            let name = a.name.as_deref().unwrap_or_default();
            events.push((false, "MissingJob", format!("Active job went missing: {name}")));
        }
        stays
    });
}

/// The time that is due, if one is; and when to look again.
fn due(
    observed: &Observed<'_>,
    spec: &CronJobSpec,
    status: &CronJobStatus,
    now: Timestamp,
    plan: &mut Plan<Action>,
    events: &mut Events,
) -> Option<Timestamp> {
    let Some(zone) = &observed.zone else {
        let name = spec.time_zone.as_deref().unwrap_or_default();
        events.push((true, "UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}")));
        return None;
    };
    if spec.suspend == Some(true) {
        return None;
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(why) => {
            events.push((true, "UnparseableSchedule", format!("unparseable schedule: {:?} : {why}", spec.schedule)));
            return None;
        }
    };
    let seen = last_seen(observed.cron, status);
    // Nothing from before the deadline is started.
    let deadline = spec.starting_deadline_seconds.and_then(|s| now.checked_sub(SignedDuration::from_secs(s)).ok());
    let due = match times::due(&schedule, seen.max(deadline.unwrap_or(seen)), now, zone) {
        Ok(due) => due,
        Err(why) => {
            events.push((true, "InvalidSchedule", format!("invalid schedule: {} : {why}", spec.schedule)));
            return None;
        }
    };
    if let Some(at) = again(&schedule, seen, now, zone) {
        plan.again_at(at);
    }
    if due.last.is_some() && due.many {
        let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        events.push((true, "TooManyMissedTimes", text.into()));
    }
    due.last
}

/// Until when the schedule has been carried out.
fn last_seen(cron: &CronJob, status: &CronJobStatus) -> Timestamp {
    let created = cron.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    status.last_schedule_time.as_ref().map_or(created, |t| t.0)
}

/// When the schedule comes again.
fn again(schedule: &Schedule, seen: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let from = match times::due(schedule, seen, now, zone) {
        Ok(due) => due.last.unwrap_or(if due.missed { now } else { seen }),
        Err(_) => now,
    };
    times::next(schedule, from, zone)?.checked_add(LATER).ok()
}

/// Whether the job of a time that is due is made. One that is there already is taken as made.
fn may_start(
    observed: &Observed<'_>,
    spec: &CronJobSpec,
    at: Timestamp,
    status: &mut CronJobStatus,
    active: &[ObjectReference],
    now: Timestamp,
    events: &mut Events,
) -> bool {
    let deadline = spec.starting_deadline_seconds.and_then(|s| at.checked_add(SignedDuration::from_secs(s)).ok());
    if deadline.is_some_and(|deadline| deadline < now) {
        let shown = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
        events.push((true, "MissSchedule", format!("Missed scheduled time to start a job: {shown}")));
        return false;
    }
    if status.last_schedule_time.as_ref().is_some_and(|t| t.0 == at) {
        return false;
    }
    let name = job_name(observed.cron, at);
    if observed.jobs.iter().any(|j| j.name() == name) {
        status.last_schedule_time = Some(Time(at));
        return false;
    }
    if spec.concurrency_policy.as_deref() == Some("Forbid") && !active.is_empty() {
        let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
        events.push((false, "JobAlreadyActive", text.into()));
        return false;
    }
    true
}

fn new_job(cron: &CronJob, spec: &CronJobSpec, at: Timestamp) -> Job {
    let template = &spec.job_template;
    let meta = template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let zone = spec.time_zone.as_deref().and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC);
    let local = at.to_zoned(zone);
    let offset = if local.offset().seconds() == 0 { "Z" } else { "%:z" };
    annotations.insert(SCHEDULED.into(), local.strftime(&format!("%Y-%m-%dT%H:%M:%S{offset}")).to_string());
    let metadata = ObjectMeta {
        name: Some(job_name(cron, at)),
        namespace: cron.metadata.namespace.clone(),
        labels: meta.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![pods::controller_reference(cron)]),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: template.spec.clone(), status: None }
}

/// The zone of a schedule: the one that it names, or the machine's. `None`: there is none of this name.
fn zone(cron: &CronJob) -> Option<TimeZone> {
    match cron.spec.time_zone.as_deref() {
        None => Some(TimeZone::system()),
        Some(name) => TimeZone::get(name).ok(),
    }
}

struct CronJobs {
    client: Client,
    crons: Arc<Cache<CronJob>>,
    jobs: Arc<Cache<Job>>,
    recorder: Recorder,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let recorder = context.recorder(&client, NAME);
    let crons = context.informers.cache::<CronJob>(Selector::all());
    let (jobs, queue) = (context.informers.cache::<Job>(Selector::all()), context.queue());
    let (dirty, clock) = (Arc::clone(&queue), context.config.clock);
    crons.on_change(Box::new(move |old, new| {
        let Some(cron) = new else { return };
        match old.filter(|o| o.uid() == cron.uid()).and_then(|o| rescheduled(o, cron, clock)) {
            Some(at) => dirty.add_at(cron.key(), clock.monotonic() + clock.until(at)),
            None => dirty.add(cron.key()),
        }
    }));
    let dirty = Arc::clone(&queue);
    jobs.on_change(Box::new(move |old, new| pods::wake(&dirty, "CronJob", old, new, &|_| Vec::new())));
    context.run(CronJobs { client, crons, jobs, recorder }, queue, WORKERS);
}

/// A new schedule begins with its next time: what it would have done before is not made up for.
fn rescheduled(old: &CronJob, new: &CronJob, clock: Clock) -> Option<Timestamp> {
    let (before, spec) = (&old.spec, &new.spec);
    if before.schedule == spec.schedule && before.time_zone == spec.time_zone {
        return None;
    }
    let schedule = Schedule::parse(&spec.schedule).ok()?;
    let seen = last_seen(new, &new.status.clone().unwrap_or_default());
    again(&schedule, seen, clock.now(), &zone(new)?)
}

impl Controller for CronJobs {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        let Some(cron) = self.crons.get(key) else { return Plan::nothing() };
        let known = self.jobs.revision();
        let mut jobs = self.jobs.in_namespace(&key.namespace);
        jobs.retain(|j| j.controller_owner().is_some_and(|o| o.uid == cron.uid()));
        plan(&Observed { cron: &cron, jobs: &jobs, known, zone: zone(&cron) }, now)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let about = || self.crons.get(key).map(|cron| reference(&*cron));
        let tell = |warns: bool, reason: &str, message: String| {
            if let Some(about) = about() {
                self.recorder.about(about, if warns { WARNING } else { NORMAL }, reason, message);
            }
        };
        match action {
            Action::Delete(job, uid) => {
                let params = DeleteParams::uid(&uid).propagation(Propagation::Background);
                match self.client.delete::<Job>(&job.namespace, &job.name, &params).await {
                    Ok(_) => {
                        tell(false, "SuccessfulDelete", format!("Deleted job {}", job.name));
                        Ok(vec![Box::pin(self.jobs.going(&job, &uid))])
                    }
                    Err(error) if error.is_not_found() => Ok(vec![]),
                    Err(error) => {
                        tell(true, "FailedDelete", format!("Deleted job: {error}"));
                        Err(error)
                    }
                }
            }
            Action::Create(job) => match self.client.create(&*job).await {
                Ok(made) => {
                    tell(false, "SuccessfulCreate", format!("Created job {}", made.name()));
                    Ok(vec![Box::pin(self.jobs.reached(made.revision()))])
                }
                // Somebody else's of this name, or one that the cache does not have yet.
                Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(vec![]),
                Err(error) => {
                    tell(true, "FailedCreate", format!("Error creating job: {error}"));
                    Err(error)
                }
            },
            Action::Status(cron) => match self.client.update_status(&*cron).await {
                Ok(written) => Ok(vec![Box::pin(self.crons.reached(written.revision()))]),
                Err(error) if error.is_not_found() => Ok(vec![]),
                Err(error) => Err(error),
            },
            Action::Event(warns, reason, message) => {
                tell(warns, reason, message);
                Ok(vec![])
            }
        }
    }
}

#[cfg(test)]
#[path = "cron_job_tests.rs"]
mod tests;
