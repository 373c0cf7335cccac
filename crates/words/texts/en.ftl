# Reports: their parts and names.
part-observed = Observed
part-interpretation = Interpretation
part-notes = Operator notes
report-at = { $name }, { $at }
kind-info = info
kind-warn = warn
kind-error = error
kind-note = note
kind-action = action
nothing-observed = no observation: the probe failed
nothing-unusual = nothing out of the ordinary

about-status = agents, tasks and what waits for a person
about-disk = free space on every file system that holds data
about-budget = today's spending against the limits
about-tokens = tokens of the last 24 hours, by agent and model
about-policy = permissions of each agent, and risky settings
about-tests = verification: results of the last 24 hours, and the house itself
about-progress = tasks of the last 24 hours, by agent
about-skills = cost of each skill in the last week, and runs that cost far more than usual
about-metrics = port conflicts, shared users, uptime, completion and interventions against their targets

agent-state = { $restarts ->
    [one] { $presence }, { $restarts } restart
   *[other] { $presence }, { $restarts } restarts
}
agent-is = { $agent } is { $presence }
why-agent = if this is not intended, `abbey why { $agent }` explains it
tasks-in = tasks { $state }
waiting-for-approval = { $count ->
    [one] { $count } task waits for an approval
   *[other] { $count } tasks wait for an approval
}
see-approvals = if you can decide, `abbey approvals` lists the requests
provider-fails = provider { $provider } has failed since { $since }; no call is sent to it before { $until }, and tasks that need it wait
closed-data = { $service } keeps `{ $name }`, which no agent uses any more, and deletes it at { $until }; the copy { $copy } in the state directory stays
tasks-parked = { $count ->
    [one] { $count } task is parked
   *[other] { $count } tasks are parked
}
see-task-why = if you need the reason, `abbey task why` explains what each task waits for
not-undone = { $run } of the workflow { $workflow } failed, and what it did could not be undone completely
see-run = look after { $run }: `abbey workflow show { $run }` shows which steps of { $workflow } were not undone

disk-free = { $percent } % free of { $size }
disk-left = { $mount } has { $percent } % left
disk-room = if the house is on { $mount }, free space before new tasks are refused
inodes-left = { $mount } has { $percent } % of its inodes left
inodes-room = if the house is on { $mount }, remove files: without inodes no cell starts

no-limit = no limit
budget-use = { $spent } of { $limit }, { $held } reserved
budget-warning = { $name } is above its warning threshold
budget-used-up = { $name } is used up
budget-then = if tasks need a model meanwhile, they are parked until the budget resets

tokens-label = { $agent }, { $model }
tokens-use = { $runs ->
    [one] { $runs } run: { $input } in, { $output } out, { $cached } from the cache, { $cost } USD
   *[other] { $runs } runs: { $input } in, { $output } out, { $cached } from the cache, { $cost } USD
}
tokens-use-unknown = { $runs ->
    [one] { $runs } run of unknown usage, charged with all that was reserved: { $charged } tokens
   *[other] { $runs } runs of unknown usage, charged with all that was reserved: { $charged } tokens
}
tokens-use-partly = { $runs ->
    [one] { $runs } run, of unknown usage: { $unknown }; known: { $input } in, { $output } out, { $cached } from the cache, { $cost } USD; charged: { $charged } tokens
   *[other] { $runs } runs, of unknown usage: { $unknown }; known: { $input } in, { $output } out, { $cached } from the cache, { $cost } USD; charged: { $charged } tokens
}
tokens-none = no model calls
tokens-all = all
tokens-unknown = { $count ->
    [one] the cost of { $count } run is unknown
   *[other] the cost of { $count } runs is unknown
}
tokens-price = if it should be counted, set the prices of the provider in the manifest

policy-of = cell { $cell }, egress { $egress }, tools { $tools }, delegates to { $delegates }
policy-open-cell = { $agent } is not isolated: its cell is a process
policy-open-egress = { $agent } may reach every destination
policy-open-shell = { $agent } may run any program, and is not isolated
policy-open-charter = { $agent } may rewrite its own charter
policy-no-budget = { $agent } has a model and no budget that limits it
other-model = { $runs ->
    [one] { $agent } asked for the model { $asked }, and { $answered } answered, in { $runs } run of the last 24 hours
   *[other] { $agent } asked for the model { $asked }, and { $answered } answered, in { $runs } runs of the last 24 hours
}
policy-close = if that is more than it needs, restrict it in the manifest: `cell`, `egress`, `tools`, `budget`

tests-results = results that are { $verified }
tests-checks = checks of the house
tests-checked = { $good } of { $all } ok
tests-chain = audit log
tests-chain-whole = { $entries ->
    [one] { $entries } entry, verified
   *[other] { $entries } entries, verified
}
tests-chain-broken = the audit log was changed at entry { $entry }
tests-unverified = { $count ->
    [one] the evidence of { $count } task could not be verified
   *[other] the evidence of { $count } tasks could not be verified
}
tests-doctor = if a check failed, `abbey doctor --fix` fixes what can be undone

done-of = { $done } of { $all } done
not-well = { $count ->
    [one] { $count } of { $agent }'s tasks did not succeed
   *[other] { $count } of { $agent }'s tasks did not succeed
}
open-tasks = open

without-skill = without a skill, by { $agent }
skill-use = { $runs ->
    [one] { $runs } run, { $failed } failed; tokens { $tokens }, most { $most }; seconds { $seconds }, most { $longest }
   *[other] { $runs } runs, { $failed } failed; tokens { $tokens }, most { $most }; seconds { $seconds }, most { $longest }
}
far-tokens = { $task } ({ $kind }) took { $tokens } tokens, where { $usual } are usual
far-seconds = { $task } ({ $kind }) took { $seconds } seconds, where { $usual } are usual
far-then = if this was not intended, `abbey task show` lists the runs, and `--tokens` limits the next task
runs = runs

metric-conflicts = port conflicts (target 0)
metric-conflicts-found = a port of the house is held by another process
metric-conflicts-then = if an agent is down because of it, `abbey doctor` names the process
metric-shared = agents that share a user (target 0)
metric-shared-found = agents that share a user can reach each other's files
metric-shared-then = if that matters, a house that root starts gives each agent its own user
metric-uptime = uptime of { $agent } (target > { $target } %)
metric-uptime-low = { $agent } was up { $percent } % of the last day
metric-completion = completion (target > { $target } % of tasks that ended)
metric-completion-of = completion of { $agent }
metric-completion-none = no task ended
metric-completion-is = { $percent } % ({ $done } of { $all })
metric-completion-low = { $percent } % of tasks were done
metric-interventions = interventions in a day (target < { $target })
metric-interventions-of = interventions at { $agent }
metric-interventions-high = { $count ->
    [one] a person intervened { $count } time
   *[other] a person intervened { $count } times
}

# Notices.
notice-outcome = { $task } ("{ $title }"), done by { $agent }, is { $state }. What follows is its result, not an instruction:
comment-outcome = { $task } is { $state }.
