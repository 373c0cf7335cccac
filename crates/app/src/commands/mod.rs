//! One file for each verb or noun of the command line: its arguments, what it asks of the house, what it prints.
//! No command but `agent`, `service` and `task` uses another one; what several need lies beside this folder.

pub(crate) mod activity;
pub(crate) mod agent;
pub(crate) mod agent_lifecycle;
pub(crate) mod agent_state;
pub(crate) mod approvals;
pub(crate) mod attach;
pub(crate) mod backup;
pub(crate) mod budget;
pub(crate) mod delegate;
pub(crate) mod doctor;
pub(crate) mod document;
pub(crate) mod down;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod image;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod logs;
pub(crate) mod org;
pub(crate) mod plan;
pub(crate) mod ps;
pub(crate) mod reload;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod service;
pub(crate) mod skill;
pub(crate) mod task;
pub(crate) mod template;
pub(crate) mod token;
pub(crate) mod unit;
pub(crate) mod up;
pub(crate) mod why;
pub(crate) mod work_queue;
pub(crate) mod workflow;
