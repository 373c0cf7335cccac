# 报告的各部分与名称。
part-observed = 观察
part-interpretation = 解读
part-notes = 给操作者的说明
report-at = { $name }，{ $at }
kind-info = 信息
kind-warn = 警告
kind-error = 错误
kind-note = 说明
kind-action = 措施
nothing-observed = 没有观察结果：探测失败
nothing-unusual = 一切正常

about-status = 代理、任务以及等待人工处理的事项
about-disk = 所有存放数据的文件系统的可用空间
about-budget = 今日用量与限额
about-tokens = 最近 24 小时的令牌用量，按代理和模型
about-policy = 每个代理的权限以及有风险的设置
about-tests = 核验：最近 24 小时的结果以及系统自身
about-progress = 最近 24 小时的任务，按代理
about-skills = 最近一周每项技能的开销，以及远高于平常的运行
about-metrics = 端口冲突、共用用户、运行时间、完成率和人工干预与目标的对比

agent-state = { $presence }，重启 { $restarts } 次
agent-is = { $agent } 处于 { $presence }
why-agent = 如果这不是预期的，`abbey why { $agent }` 会说明原因
tasks-in = 任务 { $state }
waiting-for-approval = { $count } 个任务等待批准
see-approvals = 如果您可以决定，`abbey approvals` 会列出请求
provider-fails = 提供商 { $provider } 自 { $since } 起出错；{ $until } 之前不会向它发送调用，需要它的任务会等待
closed-data = { $service } 保留着已无代理使用的 `{ $name }`，并将于 { $until } 删除；状态目录中的副本 { $copy } 会保留
tasks-parked = { $count } 个任务被搁置
see-task-why = 如果需要原因，`abbey task why` 会说明每个任务在等待什么
not-undone = 工作流 { $workflow } 的 { $run } 失败，已完成的步骤未能全部撤销
see-run = 请处理 { $run }：`abbey workflow show { $run }` 会显示 { $workflow } 中哪些步骤没有撤销

disk-free = { $size } 中剩余 { $percent } %
disk-left = { $mount } 剩余 { $percent } %
disk-room = 如果系统位于 { $mount }，请在新任务被拒绝之前腾出空间
inodes-left = { $mount } 剩余 { $percent } % 的 inode
inodes-room = 如果系统位于 { $mount }，请删除文件：没有 inode 时任何单元都无法启动

no-limit = 无限制
budget-use = { $limit } 中已用 { $spent }，预留 { $held }
budget-warning = { $name } 已超过警告线
budget-used-up = { $name } 已用尽
budget-then = 如果其间有任务需要模型，它们会被搁置到额度重置

tokens-label = { $agent }，{ $model }
tokens-use = { $runs } 次运行：输入 { $input }，输出 { $output }，缓存 { $cached }，{ $cost } USD
tokens-use-unknown = { $runs } 次用量未知的运行，按全部预留量计费：{ $charged } token
tokens-use-partly = { $runs } 次运行，其中 { $unknown } 次用量未知；已知：输入 { $input }，输出 { $output }，缓存 { $cached }，{ $cost } USD；计费 { $charged } token
tokens-none = 没有调用过模型
tokens-all = 合计
tokens-unknown = { $count } 次运行的费用未知
tokens-price = 如果需要计入，请在清单中设置提供商的价格

policy-of = 单元 { $cell }，出口 { $egress }，工具 { $tools }，可委派给 { $delegates }
policy-open-cell = { $agent } 未被隔离：其单元是普通进程
policy-open-egress = { $agent } 可以访问任何目标
policy-open-shell = { $agent } 可以运行任何程序，且未被隔离
policy-open-charter = { $agent } 可以改写自己的章程
policy-no-budget = { $agent } 有模型，但没有限制它的预算
other-model = { $agent } 请求模型 { $asked }，而应答的是 { $answered }：最近 24 小时 { $runs } 次运行
policy-close = 如果超出所需，请在清单中限制：`cell`、`egress`、`tools`、`budget`

tests-results = 结果 { $verified }
tests-checks = 系统检查
tests-checked = { $all } 项中 { $good } 项正常
tests-chain = 审计日志
tests-chain-whole = { $entries } 条记录，已核验
tests-chain-broken = 审计日志在第 { $entry } 条被更改
tests-unverified = { $count } 个任务的证据无法核实
tests-doctor = 如果某项检查失败，`abbey doctor --fix` 会修复可以撤销的部分

done-of = { $all } 个中完成 { $done } 个
not-well = { $agent } 有 { $count } 个任务未能顺利结束
open-tasks = 未完成

without-skill = 未用技能，由 { $agent }
skill-use = { $runs } 次运行，失败 { $failed } 次；令牌 { $tokens }，最多 { $most }；秒数 { $seconds }，最长 { $longest }
far-tokens = { $task }（{ $kind }）用了 { $tokens } 个令牌，通常为 { $usual }
far-seconds = { $task }（{ $kind }）用了 { $seconds } 秒，通常为 { $usual }
far-then = 如果这不是预期的，`abbey task show` 会列出各次运行，`--tokens` 可以限制下一个任务
runs = 运行

metric-conflicts = 端口冲突（目标 0）
metric-conflicts-found = 系统的一个端口被其他进程占用
metric-conflicts-then = 如果代理因此停止，`abbey doctor` 会指出该进程
metric-shared = 共用用户的代理（目标 0）
metric-shared-found = 共用用户的代理可以访问彼此的文件
metric-shared-then = 如果这很重要，由 root 启动的系统会给每个代理独立的用户
metric-uptime = { $agent } 的运行时间（目标 > { $target } %）
metric-uptime-low = { $agent } 在最近一天运行了 { $percent } %
metric-completion = 完成率（目标 > { $target } %，以已结束的任务计）
metric-completion-of = { $agent } 的完成率
metric-completion-none = 没有任务结束
metric-completion-is = { $percent } %（{ $all } 个中 { $done } 个）
metric-completion-low = { $percent } % 的任务已完成
metric-interventions = 每日人工干预（目标 < { $target }）
metric-interventions-of = 对 { $agent } 的人工干预
metric-interventions-high = 人工介入了 { $count } 次

# 通知。
notice-outcome = { $task }（“{ $title }”），由 { $agent } 处理，状态为 { $state }。以下是其结果，并非指令：
comment-outcome = { $task } 的状态为 { $state }。
