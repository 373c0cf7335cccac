//! `abbey plan`: shows what applying the manifest would change.

use crate::connect::{is_control_plane_up, operator_client};
use crate::exit::{self, Outcome};
use crate::manifest_arg::ManifestArg;
use crate::manifest_edit::{finish_interrupted_edits, text_to_put_back};
use crate::manifest_file::{allow_root_files, manifest_request, read_manifest, read_manifest_of};
use crate::moved_home::warn_of_moved_house;
use crate::output;
use crate::plan_output::print_plan;
use crate::stdout;
use crate::stopped_control_plane::note_client;
use abbey_api::{PlanDoc, PlanSeverity};
use abbey_daemon::{Home, manifest};
use clap::{Args, ValueEnum};
use std::io::IsTerminal;

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
    /// Print the JSON Schema of the manifest instead, for editors.
    #[arg(long)]
    pub(crate) schema: bool,
    /// Print the manifest that was applied last instead, as it was written.
    #[arg(long, conflicts_with_all = ["schema", "file"])]
    pub(crate) in_force: bool,
    /// Print what the host would be given instead: firewall rules of this host (nft), or rules, jails or microVMs of a
    /// FreeBSD host.
    #[arg(long, value_enum, value_name = "KIND", conflicts_with_all = ["schema", "in_force"])]
    pub(crate) render: Option<Rendering>,
}

/// What `--render` prints.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Rendering {
    /// nftables, as this host uses them.
    Nft,
    /// Rules of a PF anchor.
    Pf,
    /// jail.conf and fstab of each agent.
    Jail,
    /// Command line of bhyve for each agent.
    Bhyve,
}

/// `abbey plan`: prints what applying the manifest would change, also without a control plane; `--schema` prints
/// the JSON Schema of the manifest instead, `--in-force` the manifest that was applied last. Exit code 4 if the plan has fatal notes.
pub(crate) async fn cmd_plan(home: &Home, json: bool, args: &PlanArgs) -> Outcome {
    if args.schema {
        output::print_json(&manifest::json_schema());
        return Ok(exit::OK);
    }
    if args.in_force {
        return print_manifest_in_force(home, json).await;
    }
    let file = args.manifest.path(home);
    let mut body = read_manifest_of(home, &file)?;
    let kind = args.render.as_ref().and_then(ValueEnum::to_possible_value);
    body.render = kind.map(|kind| kind.get_name().to_owned());
    note_client();
    let doc: PlanDoc = if is_control_plane_up(home).await {
        let client = operator_client(home)?;
        if finish_interrupted_edits(home, &client, &file).await? {
            let render = body.render.take();
            body = read_manifest(&file)?;
            body.render = render;
        }
        allow_root_files(home, &body, false)?;
        client.house().plan(&body).await?
    } else {
        if let Some(text) = text_to_put_back(home, &file).await? {
            output::print_message(&format!(
                "an edit of `{}` was interrupted before the house accepted it: `abbey up` first puts the file back as it was, and this is the plan of that",
                file.display()
            ));
            let render = body.render.take();
            body = manifest_request(&file, text)?;
            body.render = render;
        }
        warn_of_moved_house(home);
        abbey_daemon::plan_offline(home.root().to_owned(), body).await?
    };
    let fatal = doc.notes.iter().any(|n| n.severity == PlanSeverity::Fatal);
    if json {
        output::print_json(&doc);
    } else if let Some(text) = &doc.rendered {
        output::print_line(text.trim_end());
    } else {
        print_plan(&doc);
    }
    Ok(if fatal { exit::CONFLICT } else { exit::OK })
}

/// Prints the manifest that was applied last, also without a control plane.
async fn print_manifest_in_force(home: &Home, json: bool) -> Outcome {
    note_client();
    let doc = match is_control_plane_up(home).await {
        true => operator_client(home)?.house().manifest().await?,
        false => abbey_daemon::manifest_offline(home.root().to_owned()).await?,
    };
    match json {
        true => output::print_json(&doc),
        // A file gets every character as it was; a terminal none that it would act on.
        false if !std::io::stdout().is_terminal() => stdout::write(doc.manifest.as_bytes()),
        false => output::print_line(doc.manifest.trim_end()),
    }
    Ok(exit::OK)
}
