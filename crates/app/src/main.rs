//! `abbey`: arguments in, documents out. It sees the system through the API's types.
#![allow(clippy::print_stdout, reason = "this is the room that prints")]

mod agents;
mod approvals;
mod attach;
mod cli;
mod connect;
mod documents;
mod examples;
mod exit;
mod house;
mod image;
mod imports;
mod lives;
mod org;
mod output;
mod queue;
mod reports;
mod roles;
mod run;
mod schedules;
mod skills;
mod tasks;
mod units;
mod upkeep;
mod watch;
mod workflows;

use clap::{CommandFactory, Parser};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == "role") {
        return roles::run(&args[2..]);
    }
    if let Some(refusal) = cli::not_built(&args) {
        eprintln!("error: {refusal}");
        return ExitCode::from(exit::USAGE);
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            let _closed = error.print();
            return ExitCode::from(if usage { exit::USAGE } else { exit::OK });
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: could not start: {error}");
            return ExitCode::from(exit::FAILURE);
        }
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = dispatch(cli) => outcome,
            _ = tokio::signal::ctrl_c() => Ok(exit::INTERRUPTED),
        }
    });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}

async fn dispatch(cli: cli::Cli) -> Result<u8, exit::Failure> {
    use cli::{Command as C, *};
    let home = connect::home(cli.home.as_deref());
    let json = cli.json;
    match cli.command {
        C::Init(args) => house::init(&args),
        C::Up(args) => house::up(&home, json, &args).await,
        C::Plan(args) => house::plan(&home, json, &args).await,
        C::Down => house::down(&home, json).await,
        C::Ps => house::ps(&home, json).await,
        C::Start(args) => agents::wish(&home, json, "start", &args).await,
        C::Stop(args) => agents::wish(&home, json, "stop", &args).await,
        C::Restart(args) => agents::wish(&home, json, "restart", &args).await,
        C::Reload(args) => agents::reload(&home, json, &args).await,
        C::Pause(args) => agents::wish(&home, json, "pause", &args).await,
        C::Resume(args) => agents::wish(&home, json, "resume", &args).await,
        C::Why { agent } => agents::why(&home, json, &agent).await,
        C::Logs(args) => watch::logs(&home, json, &format!("agents/{}", args.agent), &args).await,
        C::Exec { agent, command } => run::exec(&home, &agent, command).await,
        C::Attach { agent } => attach::attach(&home, &agent).await,
        C::Run(args) => run::run(&home, json, args).await,
        C::Agent(AgentCommand::New(args)) => agents::agent_new(&home, json, &args).await,
        C::Agent(AgentCommand::Move(args)) => agents::agent_move(&home, json, &args).await,
        C::Agent(AgentCommand::Rm(args)) => lives::rm(&home, json, &args).await,
        C::Agent(AgentCommand::Clone(args)) => lives::clone(&home, json, &args).await,
        C::Agent(AgentCommand::Restore(args)) => lives::restore(&home, json, &args).await,
        C::Import(args) => imports::run(&home, json, &args).await,
        C::Export(args) => lives::export(&home, json, &args).await,
        C::Agent(AgentCommand::Show { agent, effective }) => {
            agents::agent_show(&home, json, &agent, effective).await
        }
        C::Agent(AgentCommand::Rotate { agent }) => agents::rotate(&home, json, &agent).await,
        C::Template(TemplateCommand::List) => agents::template_list(json),
        C::Template(TemplateCommand::Show { name }) => agents::template_show(json, &name),
        C::Delegate(args) => tasks::delegate(&home, json, args).await,
        C::Org { svg } => org::show(&home, json, svg).await,
        C::Report { asked, locale } => reports::run(&home, json, &asked, locale.as_deref()).await,
        C::Approvals { all, command } => approvals::run(&home, json, all, command).await,
        C::Schedule(command) => schedules::run(&home, json, command).await,
        C::Workflow(command) => workflows::run(&home, json, command).await,
        C::Document(command) => documents::run(&home, json, command).await,
        C::Task(command) => tasks::run(&home, json, command).await,
        C::Budget(BudgetCommand::Show) => upkeep::budget(&home, json, false).await,
        C::Budget(BudgetCommand::Report) => upkeep::budget(&home, json, true).await,
        C::Skill(command) => skills::run(&home, json, command).await,
        C::Activity(args) => watch::activity(&home, json, args).await,
        C::Image(command) => image::run(&home, json, command),
        C::Unit(command) => units::run(&home, command).await,
        C::Doctor { fix } => upkeep::doctor(&home, json, fix).await,
        C::Service(ServiceCommand::Restart { service }) => {
            upkeep::restart_service(&home, json, &service).await
        }
        C::Service(ServiceCommand::List) => upkeep::services(&home, json).await,
        C::Service(ServiceCommand::Logs(args)) => {
            watch::logs(&home, json, &format!("services/{}", args.agent), &args).await
        }
        C::Backup { file } => upkeep::backup(&home, json, &file).await,
        C::Restore { file } => upkeep::restore(&home, json, &file).await,
        C::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "abbey", &mut std::io::stdout());
            Ok(exit::OK)
        }
        C::Man => {
            clap_mangen::Man::new(Cli::command())
                .render(&mut std::io::stdout())
                .map_err(|e| exit::Failure::plain(e.to_string()))?;
            Ok(exit::OK)
        }
    }
}
