//! `abbey up`: starts the control plane and applies the manifest.

use crate::commands::ps::print_fleet;
use crate::connect::{is_control_plane_up, operator_client};
use crate::consent::{Consent, obtain_consent_to_restored};
use crate::control_plane::{
    ensure_current_control_plane_up, is_house_down, runs_another_build, shut_down_house,
    wait_while_going_down,
};
use crate::exit::{self, Failure, Outcome};
use crate::follow::{UNLIMITED, activity_of, follow};
use crate::manifest_arg::{self, ManifestArg};
use crate::manifest_edit::hold_manifest;
use crate::manifest_file::{allow_root_files, allow_root_ports, read_manifest};
use crate::output::{self, Progress, print_message};
use crate::readiness::{WaitArgs, WaitFor};
use abbey_api::client::{Client, Error};
use abbey_api::{
    FleetQuery, HouseQuery, ManifestBody, PlanAction, PlanDoc, PlanNote, PlanSeverity,
    ServicesQuery,
};
use abbey_daemon::Home;
use abbey_model::FaultKind;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    /// Consent to everything that the plan removes, such as an agent that the manifest does not have any more.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// `abbey up`: starts the control plane if none is running, applies the manifest, and waits until the
/// agents and services are ready or it is known that they will not be. Exit code 7 if one is not, 4 if the plan removes something and nobody
/// consents to it.
pub(crate) async fn cmd_up(home: &Home, json: bool, args: &UpArgs) -> Outcome {
    let file = args.manifest.path(home);
    let mut body = read_manifest(&file)?;
    // An invalid manifest must not leave a control plane running.
    abbey_daemon::check_manifest(&body.manifest)?;
    obtain_consent_to_restored(home, args.yes)?;
    let mut progress = Progress::new();
    wait_while_going_down(home, &mut progress).await?;
    let was_down = is_house_down(home);
    if !is_control_plane_up(home).await {
        progress.show("starting the control plane");
    } else if runs_another_build(home) {
        progress.show("replacing the control plane by this build of abbey");
    }
    let started = ensure_current_control_plane_up(home).await?;
    if !started
        && home.require_own().is_ok()
        && let Err(error) = home.create_directories()
    {
        let text = "the owners and modes of the house's files could not be repaired";
        print_message(&format!("warning: {text}: {}", error.chain()));
    }
    let client = operator_client(home)?;
    // Another command may have added or renamed an agent since the file was read; without its edit, the plan would remove it.
    let lock = hold_manifest(&client, &file).await?;
    if lock.is_some() {
        body = read_manifest(&file)?;
    }
    allow_root_files(home, &body, false)?;
    allow_root_ports(home, &body.manifest, false)?;
    let applied = body.clone();
    progress.show("applying the manifest");
    let within = args.wait.progress_within();
    let before = generation_in_force(&client).await;
    let doc = match apply(&client, body, args.yes, within, &mut progress).await {
        Ok(doc) => doc,
        Err(failure) if failure.code() == exit::TIMEOUT => return Err(failure),
        Err(failure) => {
            let refused = generation_in_force(&client).await == before;
            if started && refused && (was_down || before.is_none()) {
                // It was started for this manifest only; leave the host as it was.
                shut_down_house(home, &client).await?;
            }
            return Err(failure);
        }
    };
    manifest_arg::remember(home, &file);
    allow_root_files(home, &applied, true)?;
    allow_root_ports(home, &applied.manifest, true)?;
    drop(lock);
    progress.end();
    let code = args.wait.wait(&client, WaitFor::Everything).await?;
    let house = client.house().show(&HouseQuery::default()).await?;
    let fleet = client.agents().list(&FleetQuery::default()).await?;
    warn_of_damaged_log(&client).await;
    if json {
        output::print_json(&fleet);
        return Ok(code);
    }
    let services = client.services().list(&ServicesQuery::default()).await?;
    let steps = doc.steps.iter();
    let steps = steps.filter(|s| s.action != PlanAction::NotApplicable);
    let change = match (doc.applied, steps.count()) {
        (false, _) => "nothing to change".to_owned(),
        (true, 1) => "1 step".to_owned(),
        (true, n) => format!("{n} steps"),
    };
    let is_up = match code {
        exit::OK if args.wait.no_wait => "is starting",
        exit::OK => "is up",
        _ => "is not all up",
    };
    print_message(&format!(
        "house {} {is_up}, generation {} ({change}), operator API {}",
        fleet.house, doc.generation, house.address
    ));
    print_fleet(&fleet, &services.services);
    Ok(code)
}

/// Longest wait for the verification of the audit log; of a longer log, `abbey doctor` says whether it verifies.
const VERIFIED_WITHIN: Duration = Duration::from_secs(5);

/// Says in one line that the audit log does not verify, if it is known in time.
async fn warn_of_damaged_log(client: &Client) {
    let client = client.clone().timeout(VERIFIED_WITHIN);
    if let Ok(verdict) = client.activity().verify().await
        && !verdict.ok
    {
        print_message(&format!(
            "warning: the audit log does not verify: entry {}: {}; `abbey doctor` says what to do",
            verdict.first_bad.unwrap_or(0),
            verdict.why.unwrap_or_default()
        ));
    }
}

/// Generation of the plan in force; none if nothing was ever applied.
async fn generation_in_force(client: &Client) -> Option<u64> {
    let manifest = client.house().manifest().await;
    manifest.ok().map(|m| m.generation)
}

/// Applies a manifest, once its plan takes nothing away to which nobody agrees. Waits for as long as the control plane gets
/// on with it, each time at most `within`.
async fn apply(
    client: &Client,
    mut body: ManifestBody,
    yes: bool,
    within: Duration,
    progress: &mut Progress,
) -> Result<PlanDoc, Failure> {
    let patient = client.clone().timeout(UNLIMITED);
    let house = patient.house();
    let activity = async || activity_of(client).await;
    loop {
        let before = generation_in_force(client).await;
        let planned = follow(house.plan(&body), &activity, within, progress).await;
        progress.end();
        let planned = planned??;
        // What cannot be carried out is refused for that, and not asked about.
        let is_fatal = |n: &PlanNote| n.severity == PlanSeverity::Fatal;
        if !planned.notes.iter().any(is_fatal) {
            body.consent = Consent::from_flag(yes).obtain(&planned)?;
        }
        let applied = follow(house.apply(&body, None), &activity, within, progress).await;
        progress.end();
        match applied? {
            // Another command changed the house meanwhile, so that there is more to consent to.
            Err(refused)
                if is_conflict(&refused) && generation_in_force(client).await != before => {}
            applied => return Ok(applied?),
        }
    }
}

/// Whether a request was refused for the state that the house was in.
fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Refused(problem) if problem.fault() == FaultKind::Conflict)
}
