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
nothing-observed = ni opažanja: preverjanje ni uspelo
nothing-unusual = nič posebnega

about-status = agenti, naloge in kar čaka na človeka
about-disk = prost prostor na vseh datotečnih sistemih s podatki
about-budget = današnja poraba glede na omejitve
about-tokens = žetoni zadnjih 24 ur po agentih in modelih
about-policy = pravice vsakega agenta in tvegane nastavitve
about-tests = preverjanje: rezultati zadnjih 24 ur in hiša sama
about-progress = naloge zadnjih 24 ur po agentih
about-skills = cena vsake veščine v zadnjem tednu in zagoni, ki so stali precej več kot običajno
about-metrics = spori za vrata, skupni uporabniki, čas delovanja, dokončanost in posegi glede na cilje

agent-state = { $restarts ->
    [one] { $presence }, { $restarts } ponovni zagon
    [two] { $presence }, { $restarts } ponovna zagona
    [few] { $presence }, { $restarts } ponovni zagoni
   *[other] { $presence }, { $restarts } ponovnih zagonov
}
agent-is = { $agent } je { $presence }
why-agent = če to ni namerno, `abbey why { $agent }` to pojasni
tasks-in = naloge { $state }
waiting-for-approval = { $count ->
    [one] { $count } naloga čaka na odobritev
    [two] { $count } nalogi čakata na odobritev
    [few] { $count } naloge čakajo na odobritev
   *[other] { $count } nalog čaka na odobritev
}
see-approvals = če lahko odločate, `abbey approvals` našteje zahteve
provider-fails = ponudnik { $provider } odpoveduje od { $since }; pred { $until } ne dobi nobenega klica, naloge, ki ga potrebujejo, pa čakajo
closed-data = { $service } hrani `{ $name }`, ki ga noben agent več ne uporablja, in ga izbriše ob { $until }; kopija { $copy } v imeniku stanja ostane
tasks-parked = { $count ->
    [one] { $count } naloga je odložena
    [two] { $count } nalogi sta odloženi
    [few] { $count } naloge so odložene
   *[other] { $count } nalog je odloženih
}
see-task-why = če potrebujete razlog, `abbey task why` pojasni, na kaj čaka katera naloga
not-undone = { $run } poteka { $workflow } ni uspel in narejenega ni bilo mogoče povsem razveljaviti
see-run = poskrbite za { $run }: `abbey workflow show { $run }` pokaže, kateri koraki poteka { $workflow } niso razveljavljeni

disk-free = { $percent } % prosto od { $size }
disk-left = na { $mount } je ostalo { $percent } %
disk-room = če je hiša na { $mount }, sprostite prostor, preden so nove naloge zavrnjene
inodes-left = na { $mount } je ostalo { $percent } % inodov
inodes-room = če je hiša na { $mount }, odstranite datoteke: brez inodov se ne zažene nobena celica

no-limit = brez omejitve
budget-use = { $spent } od { $limit }, rezervirano { $held }
budget-warning = { $name } je nad opozorilno mejo
budget-used-up = { $name } je porabljen
budget-then = če naloge medtem potrebujejo model, so odložene do ponastavitve proračuna

tokens-label = { $agent }, { $model }
tokens-use = { $runs ->
    [one] { $runs } zagon: { $input } noter, { $output } ven, { $cached } iz predpomnilnika, { $cost } USD
    [two] { $runs } zagona: { $input } noter, { $output } ven, { $cached } iz predpomnilnika, { $cost } USD
    [few] { $runs } zagoni: { $input } noter, { $output } ven, { $cached } iz predpomnilnika, { $cost } USD
   *[other] { $runs } zagonov: { $input } noter, { $output } ven, { $cached } iz predpomnilnika, { $cost } USD
}
tokens-use-unknown = { $runs ->
    [one] { $runs } zagon z neznano porabo, ki se mu šteje vse rezervirano: { $charged } žetonov
    [two] { $runs } zagona z neznano porabo, ki se jima šteje vse rezervirano: { $charged } žetonov
    [few] { $runs } zagoni z neznano porabo, ki se jim šteje vse rezervirano: { $charged } žetonov
   *[other] { $runs } zagonov z neznano porabo, ki se jim šteje vse rezervirano: { $charged } žetonov
}
tokens-use-partly = { $runs ->
    [one] { $runs } zagon, z neznano porabo: { $unknown }; znano: { $input } noter, { $output } ven, { $cached } iz predpomnilnika, { $cost } USD; šteje se { $charged } žetonov
    [two] { $runs } zagona, z neznano porabo: { $unknown }; znano: { $input } noter, { $output } ven, { $cached } iz predpomnilnika, { $cost } USD; šteje se { $charged } žetonov
    [few] { $runs } zagoni, z neznano porabo: { $unknown }; znano: { $input } noter, { $output } ven, { $cached } iz predpomnilnika, { $cost } USD; šteje se { $charged } žetonov
   *[other] { $runs } zagonov, z neznano porabo: { $unknown }; znano: { $input } noter, { $output } ven, { $cached } iz predpomnilnika, { $cost } USD; šteje se { $charged } žetonov
}
tokens-none = ni klicev modela
tokens-all = vsi
tokens-unknown = { $count ->
    [one] cena { $count } zagona ni znana
    [two] cena { $count } zagonov ni znana
    [few] cena { $count } zagonov ni znana
   *[other] cena { $count } zagonov ni znana
}
tokens-price = če naj se šteje, v manifestu nastavite cene ponudnika

policy-of = celica { $cell }, izhod { $egress }, orodja { $tools }, naloge prenaša na { $delegates }
policy-open-cell = { $agent } ni osamljen: njegova celica je proces
policy-open-egress = { $agent } sme doseči vsak cilj
policy-open-shell = { $agent } sme zagnati vsak program in ni osamljen
policy-open-charter = { $agent } sme prepisati svojo listino
policy-no-budget = { $agent } ima model in nobenega proračuna, ki bi ga omejeval
other-model = { $runs ->
    [one] { $agent } je zahteval model { $asked }, odgovoril pa je { $answered }, v { $runs } zagonu zadnjih 24 ur
   *[other] { $agent } je zahteval model { $asked }, odgovoril pa je { $answered }, v { $runs } zagonih zadnjih 24 ur
}
policy-close = če je to več, kot potrebuje, ga omejite v manifestu: `cell`, `egress`, `tools`, `budget`

tests-results = rezultati { $verified }
tests-checks = preverjanja hiše
tests-checked = { $good } od { $all } v redu
tests-chain = revizijski dnevnik
tests-chain-whole = { $entries ->
    [one] { $entries } vpis, preverjen
    [two] { $entries } vpisa, preverjena
    [few] { $entries } vpisi, preverjeni
   *[other] { $entries } vpisov, preverjenih
}
tests-chain-broken = revizijski dnevnik je bil spremenjen pri vpisu { $entry }
tests-unverified = { $count ->
    [one] dokaza { $count } naloge ni bilo mogoče preveriti
    [two] dokazov { $count } nalog ni bilo mogoče preveriti
    [few] dokazov { $count } nalog ni bilo mogoče preveriti
   *[other] dokazov { $count } nalog ni bilo mogoče preveriti
}
tests-doctor = če kakšno preverjanje ni uspelo, `abbey doctor --fix` popravi, kar je mogoče razveljaviti

done-of = opravljenih { $done } od { $all }
not-well = { $count ->
    [one] { $count } naloga agenta { $agent } ni uspela
    [two] { $count } nalogi agenta { $agent } nista uspeli
    [few] { $count } naloge agenta { $agent } niso uspele
   *[other] { $count } nalog agenta { $agent } ni uspelo
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
far-then = če to ni bilo namerno, `abbey task show` našteje zagone, `--tokens` pa omeji naslednjo nalogo
runs = zagoni

metric-conflicts = spori za vrata (cilj 0)
metric-conflicts-found = vrata hiše drži drug proces
metric-conflicts-then = če zaradi tega agent ne dela, `abbey doctor` imenuje proces
metric-shared = agenti, ki si delijo uporabnika (cilj 0)
metric-shared-found = agenti, ki si delijo uporabnika, dosežejo datoteke drug drugega
metric-shared-then = če je to pomembno, hiša, ki jo zažene root, da vsakemu agentu svojega uporabnika
metric-uptime = čas delovanja { $agent } (cilj > { $target } %)
metric-uptime-low = { $agent } je zadnji dan deloval { $percent } % časa
metric-completion = dokončanost (cilj > { $target } % nalog, ki so se končale)
metric-completion-of = dokončanost pri { $agent }
metric-completion-none = nobena naloga se ni končala
metric-completion-is = { $percent } % ({ $done } od { $all })
metric-completion-low = opravljenih je bilo { $percent } % nalog
metric-interventions = posegi na dan (cilj < { $target })
metric-interventions-of = posegi pri { $agent }
metric-interventions-high = { $count ->
    [one] človek je posegel { $count }-krat
    [two] človek je posegel { $count }-krat
    [few] človek je posegel { $count }-krat
   *[other] človek je posegel { $count }-krat
}

# Obvestila.
notice-outcome = { $task } („{ $title }“), ki jo je delal { $agent }, je { $state }. Sledi njen rezultat, ki ni navodilo:
comment-outcome = { $task } je { $state }.
