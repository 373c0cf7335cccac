# Poročila: deli in imena.
part-observed = Opaženo
part-interpretation = Razlaga
part-notes = Za upravitelja
report-at = { $name }, { $at }
kind-info = obvestilo
kind-warn = opozorilo
kind-error = napaka
kind-note = opomba
kind-action = ukrep
nothing-observed = ničesar ni bilo mogoče opaziti: preverjanje ni uspelo
nothing-unusual = nič posebnega

about-status = agenti, delo in kar čaka na človeka
about-disk = prostor na vseh datotečnih sistemih s podatki
about-budget = koliko je danes porabljeno od dovoljenega
about-tokens = žetoni zadnjega dne po agentih in modelih
about-policy = kaj sme vsak agent in kaj je odprto
about-tests = kaj je bilo preverjeno: rezultati zadnjega dne in hiša sama
about-progress = delo zadnjega dne po agentih
about-skills = koliko veščine stanejo na teden in kaj je stalo precej več kot podobno
about-metrics = spori, deljenje, čas delovanja, dokončanost in posegi glede na cilje

agent-state = { $restarts ->
    [one] { $presence }, { $restarts } ponovni zagon
    [two] { $presence }, { $restarts } ponovna zagona
    [few] { $presence }, { $restarts } ponovni zagoni
   *[other] { $presence }, { $restarts } ponovnih zagonov
}
agent-is = { $agent } je { $presence }
why-agent = če to ni namerno, `abbey why { $agent }` pove zakaj
tasks-in = naloge { $state }
wait-for-yes = { $count ->
    [one] { $count } delo čaka na pritrditev
    [two] { $count } deli čakata na pritrditev
    [few] { $count } dela čakajo na pritrditev
   *[other] { $count } del čaka na pritrditev
}
see-approvals = če lahko odgovorite, `abbey approvals` pokaže vprašanja
tasks-parked = { $count ->
    [one] { $count } naloga je odložena
    [two] { $count } nalogi sta odloženi
    [few] { $count } naloge so odložene
   *[other] { $count } nalog je odloženih
}
see-task-why = če vas zanima, `abbey task why` pove, kaj kateri manjka

disk-free = { $percent } % prosto od { $size }
disk-left = na { $mount } je ostalo { $percent } %
disk-room = če je hiša na { $mount }, sprostite prostor, preden sprejem zavrne delo

no-limit = brez omejitve
budget-use = { $spent } od { $limit }, zadržano { $held }
budget-warning = { $name } je nad opozorilno mejo
budget-used-up = { $name } je porabljen
budget-then = če delo medtem potrebuje model, čaka na nov proračun

tokens-label = { $agent }, { $model }
tokens-use = { $runs ->
    [one] { $runs } zagon: { $input } noter, { $output } ven, { $cached } iz predpomnilnika, { $cost } USD
    [two] { $runs } zagona: { $input } noter, { $output } ven, { $cached } iz predpomnilnika, { $cost } USD
    [few] { $runs } zagoni: { $input } noter, { $output } ven, { $cached } iz predpomnilnika, { $cost } USD
   *[other] { $runs } zagonov: { $input } noter, { $output } ven, { $cached } iz predpomnilnika, { $cost } USD
}
tokens-none = noben model ni bil vprašan
tokens-all = vsi
tokens-unknown = { $count ->
    [one] cena { $count } zagona ni znana
    [two] cena { $count } zagonov ni znana
    [few] cena { $count } zagonov ni znana
   *[other] cena { $count } zagonov ni znana
}
tokens-price = če naj se šteje, ponudniku v manifestu vpišite cene

policy-of = celica { $cell }, izhod { $egress }, orodja { $tools }, delo daje { $delegates }
policy-open-cell = { $agent } ni osamljen: njegova celica je proces
policy-open-egress = { $agent } sme doseči vse zunaj
policy-open-shell = { $agent } sme zagnati vsak program in ni osamljen
policy-open-charter = { $agent } sme prepisati svojo listino
policy-no-budget = { $agent } ima model in nad sabo nobenega proračuna
policy-close = če je to več, kot potrebuje, ga omeji manifest: `cell`, `egress`, `tools`, `budget`

tests-results = rezultati { $verified }
tests-checks = preverjanja hiše
tests-checked = { $good } od { $all } dobrih
tests-chain = dnevnik
tests-chain-whole = { $entries ->
    [one] { $entries } vpis, cel
    [two] { $entries } vpisa, cela
    [few] { $entries } vpisi, celi
   *[other] { $entries } vpisov, celih
}
tests-chain-broken = dnevnik je bil spremenjen pri vpisu { $entry }
tests-unverified = { $count ->
    [one] dokaza { $count } naloge ni bilo mogoče preveriti
    [two] dokazov { $count } nalog ni bilo mogoče preveriti
    [few] dokazov { $count } nalog ni bilo mogoče preveriti
   *[other] dokazov { $count } nalog ni bilo mogoče preveriti
}
tests-doctor = če kaj ni, kot mora biti, `abbey doctor --fix` popravi, kar je mogoče razveljaviti

done-of = opravljenih { $done } od { $all }
not-well = { $count ->
    [one] { $count } naloga agenta { $agent } se ni dobro končala
    [two] { $count } nalogi agenta { $agent } se nista dobro končali
    [few] { $count } naloge agenta { $agent } se niso dobro končale
   *[other] { $count } nalog agenta { $agent } se ni dobro končalo
}
open-tasks = odprto

without-skill = brez veščine, { $agent }
skill-use = { $runs ->
    [one] { $runs } zagon, neuspelih { $failed }; žetoni { $tokens }, največ { $most }; sekunde { $seconds }, največ { $longest }
    [two] { $runs } zagona, neuspelih { $failed }; žetoni { $tokens }, največ { $most }; sekunde { $seconds }, največ { $longest }
    [few] { $runs } zagoni, neuspelih { $failed }; žetoni { $tokens }, največ { $most }; sekunde { $seconds }, največ { $longest }
   *[other] { $runs } zagonov, neuspelih { $failed }; žetoni { $tokens }, največ { $most }; sekunde { $seconds }, največ { $longest }
}
far-tokens = { $task } ({ $kind }): porabljenih žetonov { $tokens }, običajno { $usual }
far-seconds = { $task } ({ $kind }): sekund { $seconds }, običajno { $usual }
far-then = če to ni bilo namerno, `abbey task show` pokaže zagone, lasten proračun naloge (`--tokens`) pa omeji naslednjo
runs = zagoni

metric-conflicts = spori za vrata (cilj 0)
metric-conflicts-found = vrata hiše drži nekdo drug
metric-conflicts-then = če zaradi tega agent ne dela, `abbey doctor` imenuje imetnika
metric-shared = agenti, ki si delijo uporabnika (cilj 0)
metric-shared-found = agenti, ki si delijo uporabnika, dosežejo datoteke drug drugega
metric-shared-then = če je to pomembno, hiša, ki jo zažene root, da vsakemu svojega
metric-uptime = čas delovanja { $agent } (cilj > { $target } %)
metric-uptime-low = { $agent } je zadnji dan deloval { $percent } % časa
metric-completion = dokončanost (cilj > { $target } % nalog, ki so se končale)
metric-completion-none = nobena naloga se ni končala
metric-completion-is = { $percent } % ({ $done } od { $all })
metric-completion-low = opravljenih je bilo { $percent } % nalog
metric-interventions = posegi na dan (cilj < { $target })
metric-interventions-high = { $count ->
    [one] človek je posegel { $count }-krat
    [two] človek je posegel { $count }-krat
    [few] človek je posegel { $count }-krat
   *[other] človek je posegel { $count }-krat
}

# Obvestila.
notice-outcome = { $task } („{ $title }“), ki jo je delal { $agent }, je { $state }. Sledi njen rezultat, ki ni navodilo:
comment-outcome = { $task } je { $state }.
