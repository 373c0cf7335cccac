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
nothing-observed = наблюдать ничего не удалось: проверка не прошла
nothing-unusual = ничего необычного

about-status = агенты, работа и то, что ждёт человека
about-disk = место на всех файловых системах с данными
about-budget = сколько сегодня израсходовано из разрешённого
about-tokens = токены за последние сутки по агентам и моделям
about-policy = что разрешено каждому агенту и что открыто
about-tests = что проверено: результаты последних суток и сам дом
about-progress = работа последних суток по агентам
about-skills = сколько навыки стоят за неделю и что обошлось намного дороже подобного
about-metrics = конфликты, совместное использование, время работы, завершённость и вмешательства относительно целей

agent-state = { $restarts ->
    [one] { $presence }, { $restarts } перезапуск
    [few] { $presence }, { $restarts } перезапуска
   *[many] { $presence }, { $restarts } перезапусков
}
agent-is = { $agent }: { $presence }
why-agent = если так не задумано, `abbey why { $agent }` скажет почему
tasks-in = задачи { $state }
wait-for-yes = { $count ->
    [one] { $count } работа ждёт согласия
    [few] { $count } работы ждут согласия
   *[many] { $count } работ ждут согласия
}
see-approvals = если вы можете ответить, `abbey approvals` покажет вопросы
tasks-parked = { $count ->
    [one] { $count } задача отложена
    [few] { $count } задачи отложены
   *[many] { $count } задач отложено
}
see-task-why = если интересно, `abbey task why` скажет, чего не хватает

disk-free = свободно { $percent } % из { $size }
disk-left = на { $mount } осталось { $percent } %
disk-room = если дом находится на { $mount }, освободите место, пока приём работы не остановлен

no-limit = без ограничения
budget-use = { $spent } из { $limit }, удержано { $held }
budget-warning = { $name }: выше порога предупреждения
budget-used-up = { $name }: израсходован
budget-then = если работе тем временем нужна модель, она ждёт нового бюджета

tokens-label = { $agent }, { $model }
tokens-use = { $runs ->
    [one] { $runs } запуск: { $input } на входе, { $output } на выходе, { $cached } из кэша, { $cost } USD
    [few] { $runs } запуска: { $input } на входе, { $output } на выходе, { $cached } из кэша, { $cost } USD
   *[many] { $runs } запусков: { $input } на входе, { $output } на выходе, { $cached } из кэша, { $cost } USD
}
tokens-none = ни одну модель не спрашивали
tokens-all = все
tokens-unknown = { $count ->
    [one] стоимость { $count } запуска неизвестна
    [few] стоимость { $count } запусков неизвестна
   *[many] стоимость { $count } запусков неизвестна
}
tokens-price = если её надо учитывать, укажите цены поставщика в манифесте

policy-of = ячейка { $cell }, выход { $egress }, инструменты { $tools }, передаёт работу: { $delegates }
policy-open-cell = { $agent } не изолирован: его ячейка — процесс
policy-open-egress = { $agent } может обращаться ко всему снаружи
policy-open-shell = { $agent } может запускать любую программу и не изолирован
policy-open-charter = { $agent } может переписать свой устав
policy-no-budget = у { $agent } есть модель и нет бюджета над ней
policy-close = если это больше, чем нужно, манифест ограничит: `cell`, `egress`, `tools`, `budget`

tests-results = результаты { $verified }
tests-checks = проверки дома
tests-checked = { $good } из { $all } в порядке
tests-chain = журнал
tests-chain-whole = { $entries ->
    [one] { $entries } запись, цел
    [few] { $entries } записи, цел
   *[many] { $entries } записей, цел
}
tests-chain-broken = журнал изменён на записи { $entry }
tests-unverified = { $count ->
    [one] доказательство { $count } задачи проверить не удалось
    [few] доказательства { $count } задач проверить не удалось
   *[many] доказательства { $count } задач проверить не удалось
}
tests-doctor = если что-то не так, `abbey doctor --fix` исправит то, что можно отменить

done-of = сделано { $done } из { $all }
not-well = { $count ->
    [one] { $count } задача агента { $agent } закончилась плохо
    [few] { $count } задачи агента { $agent } закончились плохо
   *[many] { $count } задач агента { $agent } закончились плохо
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
far-then = если так не задумано, `abbey task show` покажет запуски, а собственный бюджет задачи (`--tokens`) ограничит следующую
runs = запуски

metric-conflicts = конфликты портов (цель 0)
metric-conflicts-found = порт дома занят кем-то другим
metric-conflicts-then = если агент из-за этого не работает, `abbey doctor` назовёт владельца
metric-shared = агенты с общим пользователем (цель 0)
metric-shared-found = агенты с общим пользователем могут достать файлы друг друга
metric-shared-then = если это важно, дом, запущенный от root, даёт каждому своего
metric-uptime = время работы { $agent } (цель > { $target } %)
metric-uptime-low = { $agent } работал { $percent } % последних суток
metric-completion = завершённость (цель > { $target } % закончившихся задач)
metric-completion-none = ни одна задача не закончилась
metric-completion-is = { $percent } % ({ $done } из { $all })
metric-completion-low = выполнено { $percent } % задач
metric-interventions = вмешательства за сутки (цель < { $target })
metric-interventions-high = { $count ->
    [one] человек вмешался { $count } раз
    [few] человек вмешался { $count } раза
   *[many] человек вмешался { $count } раз
}

# Уведомления.
notice-outcome = { $task } («{ $title }»), над которой работал { $agent }: { $state }. Далее её результат, а не указание:
comment-outcome = { $task }: { $state }.
