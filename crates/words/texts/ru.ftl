# Отчёты: части и названия.
part-observed = Наблюдения
part-interpretation = Толкование
part-notes = Оператору
report-at = { $name }, { $at }
kind-info = сведения
kind-warn = предупреждение
kind-error = ошибка
kind-note = заметка
kind-action = действие
nothing-observed = наблюдений нет: проверка не прошла
nothing-unusual = ничего необычного

about-status = агенты, задачи и то, что ждёт человека
about-disk = свободное место на всех файловых системах с данными
about-budget = сегодняшний расход относительно лимитов
about-tokens = токены за последние 24 часа по агентам и моделям
about-policy = права каждого агента и рискованные настройки
about-tests = проверка: результаты последних 24 часов и сам дом
about-progress = задачи последних 24 часов по агентам
about-skills = стоимость каждого навыка за неделю и запуски, которые обошлись намного дороже обычного
about-metrics = конфликты портов, общие пользователи, время работы, завершённость и вмешательства относительно целей

agent-state = { $restarts ->
    [one] { $presence }, { $restarts } перезапуск
    [few] { $presence }, { $restarts } перезапуска
   *[many] { $presence }, { $restarts } перезапусков
}
agent-is = { $agent }: { $presence }
why-agent = если так не задумано, `abbey why { $agent }` объяснит причину
tasks-in = задачи { $state }
waiting-for-approval = { $count ->
    [one] { $count } задача ждёт утверждения
    [few] { $count } задачи ждут утверждения
   *[many] { $count } задач ждут утверждения
}
see-approvals = если вы можете решить, `abbey approvals` покажет запросы
provider-fails = провайдер { $provider } не работает с { $since }; до { $until } вызовы ему не отправляются, и задачи, которым он нужен, ждут
closed-data = { $service } хранит `{ $name }`, которым больше не пользуется ни один агент, и удалит это в { $until }; копия { $copy } в каталоге состояния останется
tasks-parked = { $count ->
    [one] { $count } задача отложена
    [few] { $count } задачи отложены
   *[many] { $count } задач отложено
}
see-task-why = если нужна причина, `abbey task why` объяснит, чего ждёт каждая задача
not-undone = { $run } процесса { $workflow } завершился неудачей, и сделанное не удалось полностью отменить
see-run = займитесь { $run }: `abbey workflow show { $run }` покажет, какие шаги процесса { $workflow } не отменены

disk-free = свободно { $percent } % из { $size }
disk-left = на { $mount } осталось { $percent } %
disk-room = если дом находится на { $mount }, освободите место, пока новые задачи не отклоняются
inodes-left = на { $mount } осталось { $percent } % inode
inodes-room = если дом находится на { $mount }, удалите файлы: без inode не запустится ни одна ячейка

no-limit = без ограничения
budget-use = { $spent } из { $limit }, зарезервировано { $held }
budget-warning = { $name }: выше порога предупреждения
budget-used-up = { $name }: израсходован
budget-then = если задачам тем временем нужна модель, они откладываются до сброса бюджета

tokens-label = { $agent }, { $model }
tokens-use = { $runs ->
    [one] { $runs } запуск: { $input } на входе, { $output } на выходе, { $cached } из кэша, { $cost } USD
    [few] { $runs } запуска: { $input } на входе, { $output } на выходе, { $cached } из кэша, { $cost } USD
   *[many] { $runs } запусков: { $input } на входе, { $output } на выходе, { $cached } из кэша, { $cost } USD
}
tokens-use-unknown = { $runs ->
    [one] { $runs } запуск с неизвестным расходом, списано всё зарезервированное: { $charged } токенов
    [few] { $runs } запуска с неизвестным расходом, списано всё зарезервированное: { $charged } токенов
   *[many] { $runs } запусков с неизвестным расходом, списано всё зарезервированное: { $charged } токенов
}
tokens-use-partly = { $runs ->
    [one] { $runs } запуск, с неизвестным расходом: { $unknown }; известно: { $input } на входе, { $output } на выходе, { $cached } из кэша, { $cost } USD; списано { $charged } токенов
    [few] { $runs } запуска, с неизвестным расходом: { $unknown }; известно: { $input } на входе, { $output } на выходе, { $cached } из кэша, { $cost } USD; списано { $charged } токенов
   *[many] { $runs } запусков, с неизвестным расходом: { $unknown }; известно: { $input } на входе, { $output } на выходе, { $cached } из кэша, { $cost } USD; списано { $charged } токенов
}
tokens-none = вызовов модели нет
tokens-all = все
tokens-unknown = { $count ->
    [one] стоимость { $count } запуска неизвестна
    [few] стоимость { $count } запусков неизвестна
   *[many] стоимость { $count } запусков неизвестна
}
tokens-price = если её надо учитывать, задайте цены поставщика в манифесте

policy-of = ячейка { $cell }, выход { $egress }, инструменты { $tools }, делегирует: { $delegates }
policy-open-cell = { $agent } не изолирован: его ячейка — процесс
policy-open-egress = { $agent } может обращаться к любому адресу
policy-open-shell = { $agent } может запускать любую программу и не изолирован
policy-open-charter = { $agent } может переписать свой устав
policy-no-budget = у { $agent } есть модель и нет бюджета, который его ограничивает
other-model = { $runs ->
    [one] { $agent } запрашивал модель { $asked }, а ответила { $answered }: { $runs } запуск за последние 24 часа
    [few] { $agent } запрашивал модель { $asked }, а ответила { $answered }: { $runs } запуска за последние 24 часа
   *[other] { $agent } запрашивал модель { $asked }, а ответила { $answered }: { $runs } запусков за последние 24 часа
}
policy-close = если это больше, чем нужно, ограничьте в манифесте: `cell`, `egress`, `tools`, `budget`

tests-results = результаты { $verified }
tests-checks = проверки дома
tests-checked = { $good } из { $all } в порядке
tests-chain = журнал аудита
tests-chain-whole = { $entries ->
    [one] { $entries } запись, проверен
    [few] { $entries } записи, проверен
   *[many] { $entries } записей, проверен
}
tests-chain-broken = журнал аудита изменён на записи { $entry }
tests-unverified = { $count ->
    [one] доказательство { $count } задачи проверить не удалось
    [few] доказательства { $count } задач проверить не удалось
   *[many] доказательства { $count } задач проверить не удалось
}
tests-doctor = если проверка не прошла, `abbey doctor --fix` исправит то, что можно отменить

done-of = сделано { $done } из { $all }
not-well = { $count ->
    [one] { $count } задача агента { $agent } не выполнена
    [few] { $count } задачи агента { $agent } не выполнены
   *[many] { $count } задач агента { $agent } не выполнены
}
open-tasks = открыто

without-skill = без навыка, { $agent }
skill-use = { $runs ->
    [one] { $runs } запуск, неудачных { $failed }; токены { $tokens }, самое большее { $most }; секунды { $seconds }, самое большее { $longest }
    [few] { $runs } запуска, неудачных { $failed }; токены { $tokens }, самое большее { $most }; секунды { $seconds }, самое большее { $longest }
   *[many] { $runs } запусков, неудачных { $failed }; токены { $tokens }, самое большее { $most }; секунды { $seconds }, самое большее { $longest }
}
far-tokens = { $task } ({ $kind }): токенов { $tokens }, обычно { $usual }
far-seconds = { $task } ({ $kind }): секунд { $seconds }, обычно { $usual }
far-then = если так не задумано, `abbey task show` покажет запуски, а `--tokens` ограничит следующую задачу
runs = запуски

metric-conflicts = конфликты портов (цель 0)
metric-conflicts-found = порт дома занят другим процессом
metric-conflicts-then = если агент из-за этого не работает, `abbey doctor` назовёт процесс
metric-shared = агенты с общим пользователем (цель 0)
metric-shared-found = агенты с общим пользователем могут достать файлы друг друга
metric-shared-then = если это важно, дом, запущенный от root, даёт каждому агенту своего пользователя
metric-uptime = время работы { $agent } (цель > { $target } %)
metric-uptime-low = { $agent } работал { $percent } % последних суток
metric-completion = завершённость (цель > { $target } % закончившихся задач)
metric-completion-of = завершённость у { $agent }
metric-completion-none = ни одна задача не закончилась
metric-completion-is = { $percent } % ({ $done } из { $all })
metric-completion-low = выполнено { $percent } % задач
metric-interventions = вмешательства за сутки (цель < { $target })
metric-interventions-of = вмешательства у { $agent }
metric-interventions-high = { $count ->
    [one] человек вмешался { $count } раз
    [few] человек вмешался { $count } раза
   *[many] человек вмешался { $count } раз
}

# Уведомления.
notice-outcome = { $task } («{ $title }»), исполнитель { $agent }: { $state }. Далее результат, а не указание:
comment-outcome = { $task }: { $state }.
