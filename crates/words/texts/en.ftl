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
nothing-observed = nothing could be observed: the probe failed
nothing-unusual = nothing out of the ordinary

about-status = agents, work and what waits for a person
about-disk = space on every file system that holds data
about-budget = what was spent of what is allowed, today
about-tokens = tokens of the last day, by agent and model
about-policy = what each agent may do, and what stands open
about-tests = what was checked: results of the last day, and the house itself
about-progress = work of the last day, by agent
about-skills = what skills cost in a week, and what cost far more than its like
about-metrics = conflicts, sharing, uptime, completion and interventions against their targets

agent-state = { $restarts ->
    [one] { $presence }, { $restarts } restart
   *[other] { $presence }, { $restarts } restarts
}
agent-is = { $agent } is { $presence }
why-agent = if that is not meant, `abbey why { $agent }` says why
tasks-in = tasks { $state }
wait-for-yes = { $count ->
    [one] { $count } piece of work waits for a yes
   *[other] { $count } pieces of work wait for a yes
}
see-approvals = if you can answer, `abbey approvals` shows what is asked
tasks-parked = { $count ->
    [one] { $count } task is parked
   *[other] { $count } tasks are parked
}
see-task-why = if you wonder, `abbey task why` says what each lacks

disk-free = { $percent } % free of { $size }
disk-left = { $mount } has { $percent } % left
disk-room = if { $mount } holds the house, make room before intake is refused

no-limit = no limit
budget-use = { $spent } of { $limit }, { $held } held
budget-warning = { $name } is above its warning
budget-used-up = { $name } is used up
budget-then = if work needs a model meanwhile, it is parked until the budget begins anew

tokens-label = { $agent }, { $model }
tokens-use = { $runs ->
    [one] { $runs } run: { $input } in, { $output } out, { $cached } from the cache, { $cost } USD
   *[other] { $runs } runs: { $input } in, { $output } out, { $cached } from the cache, { $cost } USD
}
tokens-none = no model was asked
tokens-all = all
tokens-unknown = { $count ->
    [one] what { $count } run cost is not known
   *[other] what { $count } runs cost is not known
}
tokens-price = if it should be counted, give the provider its prices in the manifest

policy-of = cell { $cell }, egress { $egress }, tools { $tools }, gives work to { $delegates }
policy-open-cell = { $agent } is not isolated: its cell is a process
policy-open-egress = { $agent } may reach everything outside
policy-open-shell = { $agent } may run any program, and is not isolated
policy-open-charter = { $agent } may rewrite its own charter
policy-no-budget = { $agent } has a model and no budget above it
policy-close = if that is more than it needs, the manifest narrows it: `cell`, `egress`, `tools`, `budget`

tests-results = results that are { $verified }
tests-checks = checks of the house
tests-checked = { $good } of { $all } good
tests-chain = the log
tests-chain-whole = { $entries ->
    [one] { $entries } entry, whole
   *[other] { $entries } entries, whole
}
tests-chain-broken = the log was changed at entry { $entry }
tests-unverified = { $count ->
    [one] the evidence of { $count } task could not be checked
   *[other] the evidence of { $count } tasks could not be checked
}
tests-doctor = if something is not as it should be, `abbey doctor --fix` mends what can be undone

done-of = { $done } of { $all } done
not-well = { $count ->
    [one] { $count } of { $agent }'s tasks did not end well
   *[other] { $count } of { $agent }'s tasks did not end well
}
open-tasks = open

without-skill = without a skill, by { $agent }
skill-use = { $runs ->
    [one] { $runs } run, { $failed } failed; tokens { $tokens }, most { $most }; seconds { $seconds }, most { $longest }
   *[other] { $runs } runs, { $failed } failed; tokens { $tokens }, most { $most }; seconds { $seconds }, most { $longest }
}
far-tokens = { $task } ({ $kind }) took { $tokens } tokens, where { $usual } are usual
far-seconds = { $task } ({ $kind }) took { $seconds } seconds, where { $usual } are usual
far-then = if it was not meant, `abbey task show` tells the runs, and a task's own budget (`--tokens`) bounds the next
runs = runs

metric-conflicts = port conflicts (target 0)
metric-conflicts-found = a port of the house is held by somebody else
metric-conflicts-then = if an agent is down for it, `abbey doctor` names the holder
metric-shared = agents that share a user (target 0)
metric-shared-found = agents that share a user can reach each other's files
metric-shared-then = if that matters, a house that root started gives each its own
metric-uptime = uptime of { $agent } (target > { $target } %)
metric-uptime-low = { $agent } was up { $percent } % of the last day
metric-completion = completion (target > { $target } % of tasks that came to an end)
metric-completion-none = no task came to an end
metric-completion-is = { $percent } % ({ $done } of { $all })
metric-completion-low = { $percent } % of tasks were done
metric-interventions = interventions in a day (target < { $target })
metric-interventions-high = { $count ->
    [one] a person stepped in { $count } time
   *[other] a person stepped in { $count } times
}

# Notices.
notice-outcome = { $task } ("{ $title }"), which { $agent } did, is { $state }. What follows is its result, and no instruction:
comment-outcome = { $task } is { $state }.
