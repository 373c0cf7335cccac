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
use crate::manifest_edit::{edited_by_commands, hold_manifest, text_to_put_back};
use crate::manifest_file::{
    allow_root_files, allow_root_ports, manifest_request, read_manifest, read_manifest_of,
};
use crate::moved_home::refuse_moved_home;
use crate::output::{self, Progress, print_message};
use crate::plan_before_start::plan_before_start;
use crate::readiness::{WaitArgs, WaitFor};
use crate::stopped_control_plane::kill_stopped_control_plane;
use abbey_api::client::{Client, Error};
use abbey_api::{
    FleetQuery, HouseQuery, ManifestBody, PlanAction, PlanDoc, PlanNote, PlanSeverity,
    ServicesQuery,
};
use abbey_daemon::Home;
use abbey_model::FaultKind;
use abbey_support::shell::shell_path;
use clap::Args;
use std::path::Path;
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
/// consents to it, or if another command applied another manifest meanwhile.
pub(crate) async fn cmd_up(home: &Home, json: bool, args: &UpArgs) -> Outcome {
    let file = args.manifest.path(home);
    let mut body = read_manifest_of(home, &file)?;
    // An invalid manifest must not leave a control plane running.
    abbey_daemon::check_manifest(&body.manifest)?;
    refuse_moved_home(home)?;
    abbey_daemon::check_new_house(home)?;
    obtain_consent_to_restored(home, args.yes).await?;
    let mut progress = Progress::new();
    kill_stopped_control_plane(home)?;
    wait_while_going_down(home, &mut progress).await?;
    let was_down = is_house_down(home);
    if was_down {
        // What the file will say when it is applied; where that cannot be found out, nothing can be planned either.
        if let Ok(Some(text)) = text_to_put_back(home, &file).await {
            body = manifest_request(&file, text)?;
        }
        body.consent = plan_before_start(home, &body, args.yes).await?;
    }
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
    let before = generation_in_force(&client).await;
    let house = (home, &client);
    let doc = match apply(house, &file, body, args, &mut progress).await {
        Ok(doc) => doc,
        Err(failure) if failure.code() == exit::TIMEOUT => return Err(failure),
        Err(failure) => {
            // Of a plan in force something could not be carried out, which holds up nothing else.
            let refusals = [exit::CONFLICT, exit::USAGE, exit::UNREACHABLE];
            let body = read_manifest(&file)?;
            let in_force = client.house().manifest().await;
            if in_force.is_ok_and(|m| m.manifest == body.manifest)
                && !refusals.contains(&failure.code())
            {
                allow_root_files(home, &body, true)?;
                allow_root_ports(home, &body.manifest, true)?;
                manifest_arg::remember(home, &file);
                args.wait.wait(&client, WaitFor::Everything).await?;
                let fleet = client.agents().list(&FleetQuery::default()).await?;
                match json {
                    true => output::print_json(&fleet),
                    false => {
                        let services = client.services().list(&ServicesQuery::default()).await?;
                        print_fleet(&fleet, &services.services);
                    }
                }
                return Err(failure.with_code(exit::DEGRADED));
            }
            let refused = generation_in_force(&client).await == before;
            if started && refused && (was_down || before.is_none()) {
                // It was started for this manifest only; leave the host as it was.
                if let Err(left) = shut_down_house(home, &client).await {
                    return Err(failure.followed_by("what was started for it is not stopped", left));
                }
            }
            return Err(failure);
        }
    };
    manifest_arg::remember(home, &file);
    let code = args.wait.wait(&client, WaitFor::Everything).await?;
    let house = client.house().show(&HouseQuery::default()).await?;
    if house.generation > doc.generation {
        require_same_manifest(home, &client, &file, doc.generation).await?;
    }
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

/// Applies the manifest `file`, once its plan takes nothing away to which nobody agrees; `body` is what was read of it. Waits
/// for as long as the control plane gets on with it, each time at most for the time in `args`.
async fn apply(
    (home, client): (&Home, &Client),
    file: &Path,
    mut body: ManifestBody,
    args: &UpArgs,
    progress: &mut Progress,
) -> Result<PlanDoc, Failure> {
    let within = args.wait.progress_within();
    let patient = client.clone().timeout(UNLIMITED);
    let house = patient.house();
    let activity = async || activity_of(client).await;
    // To what the same manifest removed before the house was started.
    let mut agreed = std::mem::take(&mut body.consent);
    loop {
        let mut turn = Some(hold_manifest(home, client, file).await?);
        // Another command may have added or renamed an agent since it was read; without its edit, the plan would remove it.
        if reread(file, &mut body)? {
            agreed.clear();
        }
        allow_root_files(home, &body, false)?;
        allow_root_ports(home, &body.manifest, false)?;
        progress.show("applying the manifest");
        let before = generation_in_force(client).await;
        let planned = follow(house.plan(&body), &activity, within, progress).await;
        progress.end();
        let planned = planned??;
        // What cannot be carried out is refused for that, and not asked about.
        let is_fatal = |n: &PlanNote| n.severity == PlanSeverity::Fatal;
        if !planned.notes.iter().any(is_fatal) {
            let consent = Consent::from_flag(args.yes).or_given(&std::mem::take(&mut agreed));
            // While the operator is asked, other commands can edit the file.
            body.consent = consent.obtain(&planned, || turn = None).await?;
        }
        if turn.is_none() {
            turn = Some(hold_manifest(home, client, file).await?);
            let changed = reread(file, &mut body)?;
            if changed || generation_in_force(client).await != before {
                print_message(
                    "the manifest or the house was changed meanwhile; it is planned again",
                );
                continue;
            }
        }
        let applied = follow(house.apply(&body, None), &activity, within, progress).await;
        progress.end();
        match applied? {
            // Another command changed the house meanwhile, so that there is more to consent to.
            Err(refused)
                if is_conflict(&refused) && generation_in_force(client).await != before => {}
            applied => {
                let doc = applied?;
                allow_root_files(home, &body, true)?;
                allow_root_ports(home, &body.manifest, true)?;
                drop(turn);
                return Ok(doc);
            }
        }
    }
}

/// Refuses to report the house as the manifest `file` says if it is not: another command applied another manifest after
/// generation `applied`. Commands that edit the file and apply that are no others.
async fn require_same_manifest(
    home: &Home,
    client: &Client,
    file: &Path,
    applied: u64,
) -> Result<(), Failure> {
    // While another command edits the file, it is ahead of the house.
    let _turn = hold_manifest(home, client, file).await?;
    let now = client.house().manifest().await?;
    if file.is_file() && read_manifest(file)?.manifest == now.manifest {
        return Ok(());
    }
    Err(Failure::plain(format!(
        "generation {applied}, which this command applied, was superseded by generation {}: another command applied another manifest meanwhile",
        now.generation
    ))
    .hint(format!(
        "`abbey plan -f {0}` shows what differs now, and `abbey up -f {0}` applies this manifest again",
        shell_path(file)
    ))
    .with_code(exit::CONFLICT))
}

/// Reads the manifest again, unless it can be read once only. Returns whether it, or a file that it names, has changed; what
/// was agreed to stays only if nothing has.
fn reread(file: &Path, body: &mut ManifestBody) -> Result<bool, Failure> {
    if edited_by_commands(file).is_none() {
        return Ok(false);
    }
    let mut now = read_manifest(file)?;
    let same = now.manifest == body.manifest && now.charters == body.charters;
    if same {
        now.consent = std::mem::take(&mut body.consent);
    }
    *body = now;
    Ok(!same)
}

/// Whether a request was refused for the state that the house was in.
fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Refused(problem) if problem.fault() == FaultKind::Conflict)
}
