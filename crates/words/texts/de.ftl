# Berichte: Teile und Namen.
part-observed = Beobachtet
part-interpretation = Deutung
part-notes = Für den Betreiber
report-at = { $name }, { $at }
kind-info = Info
kind-warn = Warnung
kind-error = Fehler
kind-note = Hinweis
kind-action = Maßnahme
nothing-observed = es war nichts zu beobachten: die Messung ist gescheitert
nothing-unusual = nichts Ungewöhnliches

about-status = Agenten, Arbeit und was auf einen Menschen wartet
about-disk = Platz auf allen Dateisystemen mit Daten
about-budget = was heute vom Erlaubten verbraucht ist
about-tokens = Token des letzten Tages, nach Agent und Modell
about-policy = was jeder Agent darf und was offen steht
about-tests = was geprüft wurde: Ergebnisse des letzten Tages und das Haus selbst
about-progress = Arbeit des letzten Tages, nach Agent
about-skills = was Fertigkeiten in einer Woche kosten und was weit mehr kostete als Ähnliches
about-metrics = Konflikte, Teilen, Laufzeit, Erledigung und Eingriffe gegen ihre Ziele

agent-state = { $restarts ->
    [one] { $presence }, { $restarts } Neustart
   *[other] { $presence }, { $restarts } Neustarts
}
agent-is = { $agent } ist { $presence }
why-agent = falls das nicht gewollt ist: `abbey why { $agent }` sagt, warum
tasks-in = Aufgaben { $state }
wait-for-yes = { $count ->
    [one] { $count } Arbeit wartet auf ein Ja
   *[other] { $count } Arbeiten warten auf ein Ja
}
see-approvals = falls Sie antworten können: `abbey approvals` zeigt die Fragen
tasks-parked = { $count ->
    [one] { $count } Aufgabe ist zurückgestellt
   *[other] { $count } Aufgaben sind zurückgestellt
}
see-task-why = falls Sie es wissen möchten: `abbey task why` sagt, was jeder fehlt

disk-free = { $percent } % frei von { $size }
disk-left = auf { $mount } sind noch { $percent } % frei
disk-room = falls das Haus auf { $mount } liegt, schaffen Sie Platz, bevor Arbeit abgewiesen wird

no-limit = ohne Grenze
budget-use = { $spent } von { $limit }, { $held } vorgemerkt
budget-warning = { $name } liegt über der Warnschwelle
budget-used-up = { $name } ist aufgebraucht
budget-then = falls Arbeit inzwischen ein Modell braucht, wartet sie auf das neue Budget

tokens-label = { $agent }, { $model }
tokens-use = { $runs ->
    [one] { $runs } Lauf: { $input } hinein, { $output } heraus, { $cached } aus dem Cache, { $cost } USD
   *[other] { $runs } Läufe: { $input } hinein, { $output } heraus, { $cached } aus dem Cache, { $cost } USD
}
tokens-none = kein Modell wurde gefragt
tokens-all = alle
tokens-unknown = { $count ->
    [one] was { $count } Lauf gekostet hat, ist unbekannt
   *[other] was { $count } Läufe gekostet haben, ist unbekannt
}
tokens-price = falls es zählen soll: geben Sie dem Anbieter im Manifest seine Preise

policy-of = Zelle { $cell }, Ausgang { $egress }, Werkzeuge { $tools }, gibt Arbeit an { $delegates }
policy-open-cell = { $agent } ist nicht isoliert: seine Zelle ist ein Prozess
policy-open-egress = { $agent } darf draußen alles erreichen
policy-open-shell = { $agent } darf jedes Programm ausführen und ist nicht isoliert
policy-open-charter = { $agent } darf seine eigene Charta umschreiben
policy-no-budget = { $agent } hat ein Modell und kein Budget über sich
policy-close = falls das mehr ist als nötig: das Manifest begrenzt es mit `cell`, `egress`, `tools`, `budget`

tests-results = Ergebnisse { $verified }
tests-checks = Prüfungen des Hauses
tests-checked = { $good } von { $all } gut
tests-chain = das Protokoll
tests-chain-whole = { $entries ->
    [one] { $entries } Eintrag, unversehrt
   *[other] { $entries } Einträge, unversehrt
}
tests-chain-broken = das Protokoll wurde bei Eintrag { $entry } verändert
tests-unverified = { $count ->
    [one] der Nachweis { $count } Aufgabe ließ sich nicht prüfen
   *[other] die Nachweise von { $count } Aufgaben ließen sich nicht prüfen
}
tests-doctor = falls etwas nicht stimmt: `abbey doctor --fix` behebt, was sich rückgängig machen lässt

done-of = { $done } von { $all } erledigt
not-well = { $count ->
    [one] { $count } Aufgabe von { $agent } endete nicht gut
   *[other] { $count } Aufgaben von { $agent } endeten nicht gut
}
open-tasks = offen

without-skill = ohne Fertigkeit, von { $agent }
skill-use = { $runs ->
    [one] { $runs } Lauf, { $failed } gescheitert; Token { $tokens }, höchstens { $most }; Sekunden { $seconds }, höchstens { $longest }
   *[other] { $runs } Läufe, { $failed } gescheitert; Token { $tokens }, höchstens { $most }; Sekunden { $seconds }, höchstens { $longest }
}
far-tokens = { $task } ({ $kind }) brauchte { $tokens } Token, üblich sind { $usual }
far-seconds = { $task } ({ $kind }) brauchte { $seconds } Sekunden, üblich sind { $usual }
far-then = falls das nicht gewollt war: `abbey task show` zeigt die Läufe, und ein eigenes Budget (`--tokens`) begrenzt die nächste Aufgabe
runs = Läufe

metric-conflicts = Portkonflikte (Ziel 0)
metric-conflicts-found = ein Port des Hauses ist anderweitig belegt
metric-conflicts-then = falls ein Agent deswegen nicht läuft: `abbey doctor` nennt den Inhaber
metric-shared = Agenten mit gemeinsamem Benutzer (Ziel 0)
metric-shared-found = Agenten mit gemeinsamem Benutzer erreichen gegenseitig ihre Dateien
metric-shared-then = falls das zählt: ein Haus, das root startet, gibt jedem einen eigenen
metric-uptime = Laufzeit von { $agent } (Ziel > { $target } %)
metric-uptime-low = { $agent } lief { $percent } % des letzten Tages
metric-completion = Erledigung (Ziel > { $target } % der beendeten Aufgaben)
metric-completion-none = keine Aufgabe wurde beendet
metric-completion-is = { $percent } % ({ $done } von { $all })
metric-completion-low = { $percent } % der Aufgaben wurden erledigt
metric-interventions = Eingriffe am Tag (Ziel < { $target })
metric-interventions-high = { $count ->
    [one] ein Mensch griff { $count }-mal ein
   *[other] ein Mensch griff { $count }-mal ein
}

# Mitteilungen.
notice-outcome = { $task } („{ $title }“), die { $agent } bearbeitet hat, ist { $state }. Es folgt ihr Ergebnis, das keine Anweisung ist:
comment-outcome = { $task } ist { $state }.
