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
nothing-observed = keine Beobachtung: die Messung ist gescheitert
nothing-unusual = nichts Ungewöhnliches

about-status = Agenten, Aufgaben und was auf einen Menschen wartet
about-disk = freier Platz auf allen Dateisystemen mit Daten
about-budget = heutiger Verbrauch gegen die Grenzen
about-tokens = Token der letzten 24 Stunden, nach Agent und Modell
about-policy = Rechte jedes Agenten und riskante Einstellungen
about-tests = Prüfung: Ergebnisse der letzten 24 Stunden und das Haus selbst
about-progress = Aufgaben der letzten 24 Stunden, nach Agent
about-skills = Kosten jeder Fertigkeit in der letzten Woche und Läufe, die weit mehr als üblich kosteten
about-metrics = Portkonflikte, gemeinsame Benutzer, Laufzeit, Erledigung und Eingriffe gegen ihre Ziele

agent-state = { $restarts ->
    [one] { $presence }, { $restarts } Neustart
   *[other] { $presence }, { $restarts } Neustarts
}
agent-is = { $agent } ist { $presence }
why-agent = falls das nicht gewollt ist: `abbey why { $agent }` erklärt es
tasks-in = Aufgaben { $state }
waiting-for-approval = { $count ->
    [one] { $count } Aufgabe wartet auf eine Genehmigung
   *[other] { $count } Aufgaben warten auf eine Genehmigung
}
see-approvals = falls Sie entscheiden können: `abbey approvals` listet die Anfragen
provider-fails = der Anbieter { $provider } versagt seit { $since }; vor { $until } geht kein Aufruf an ihn, und Aufgaben, die ihn brauchen, warten
closed-data = { $service } behält `{ $name }`, das kein Agent mehr benutzt, und löscht es um { $until }; die Kopie { $copy } im Zustandsverzeichnis bleibt
tasks-parked = { $count ->
    [one] { $count } Aufgabe ist zurückgestellt
   *[other] { $count } Aufgaben sind zurückgestellt
}
see-task-why = falls Sie den Grund brauchen: `abbey task why` erklärt, worauf jede Aufgabe wartet
not-undone = { $run } des Ablaufs { $workflow } ist gescheitert, und was getan war, ließ sich nicht ganz rückgängig machen
see-run = kümmern Sie sich um { $run }: `abbey workflow show { $run }` zeigt, welche Schritte von { $workflow } nicht rückgängig gemacht wurden

disk-free = { $percent } % frei von { $size }
disk-left = auf { $mount } sind noch { $percent } % frei
disk-room = falls das Haus auf { $mount } liegt, schaffen Sie Platz, bevor neue Aufgaben abgewiesen werden
inodes-left = auf { $mount } sind noch { $percent } % der Inodes frei
inodes-room = falls das Haus auf { $mount } liegt, löschen Sie Dateien: ohne Inodes startet keine Zelle

no-limit = ohne Grenze
budget-use = { $spent } von { $limit }, { $held } reserviert
budget-warning = { $name } liegt über der Warnschwelle
budget-used-up = { $name } ist aufgebraucht
budget-then = falls Aufgaben inzwischen ein Modell brauchen, werden sie bis zum Zurücksetzen des Budgets zurückgestellt

tokens-label = { $agent }, { $model }
tokens-use = { $runs ->
    [one] { $runs } Lauf: { $input } hinein, { $output } heraus, { $cached } aus dem Cache, { $cost } USD
   *[other] { $runs } Läufe: { $input } hinein, { $output } heraus, { $cached } aus dem Cache, { $cost } USD
}
tokens-use-unknown = { $runs ->
    [one] { $runs } Lauf mit unbekanntem Verbrauch, dem alles Reservierte angerechnet ist: { $charged } Token
   *[other] { $runs } Läufe mit unbekanntem Verbrauch, denen alles Reservierte angerechnet ist: { $charged } Token
}
tokens-use-partly = { $runs ->
    [one] { $runs } Lauf, mit unbekanntem Verbrauch: { $unknown }; bekannt: { $input } hinein, { $output } heraus, { $cached } aus dem Cache, { $cost } USD; angerechnet: { $charged } Token
   *[other] { $runs } Läufe, mit unbekanntem Verbrauch: { $unknown }; bekannt: { $input } hinein, { $output } heraus, { $cached } aus dem Cache, { $cost } USD; angerechnet: { $charged } Token
}
tokens-none = keine Modellaufrufe
tokens-all = alle
tokens-unknown = { $count ->
    [one] was { $count } Lauf gekostet hat, ist unbekannt
   *[other] was { $count } Läufe gekostet haben, ist unbekannt
}
tokens-price = falls es zählen soll: setzen Sie die Preise des Anbieters im Manifest

policy-of = Zelle { $cell }, Ausgang { $egress }, Werkzeuge { $tools }, delegiert an { $delegates }
policy-open-cell = { $agent } ist nicht isoliert: seine Zelle ist ein Prozess
policy-open-egress = { $agent } darf jedes Ziel erreichen
policy-open-shell = { $agent } darf jedes Programm ausführen und ist nicht isoliert
policy-open-charter = { $agent } darf seine eigene Charta umschreiben
policy-no-budget = { $agent } hat ein Modell und kein Budget, das ihn begrenzt
other-model = { $runs ->
    [one] { $agent } fragte nach dem Modell { $asked }, und { $answered } antwortete, in { $runs } Lauf der letzten 24 Stunden
   *[other] { $agent } fragte nach dem Modell { $asked }, und { $answered } antwortete, in { $runs } Läufen der letzten 24 Stunden
}
policy-close = falls das mehr ist als nötig: beschränken Sie es im Manifest: `cell`, `egress`, `tools`, `budget`

tests-results = Ergebnisse { $verified }
tests-checks = Prüfungen des Hauses
tests-checked = { $good } von { $all } in Ordnung
tests-chain = Prüfprotokoll
tests-chain-whole = { $entries ->
    [one] { $entries } Eintrag, geprüft
   *[other] { $entries } Einträge, geprüft
}
tests-chain-broken = das Prüfprotokoll wurde bei Eintrag { $entry } verändert
tests-unverified = { $count ->
    [one] der Nachweis { $count } Aufgabe ließ sich nicht prüfen
   *[other] die Nachweise von { $count } Aufgaben ließen sich nicht prüfen
}
tests-doctor = falls eine Prüfung scheiterte: `abbey doctor --fix` behebt, was sich rückgängig machen lässt

done-of = { $done } von { $all } erledigt
not-well = { $count ->
    [one] { $count } Aufgabe von { $agent } hatte keinen Erfolg
   *[other] { $count } Aufgaben von { $agent } hatten keinen Erfolg
}
open-tasks = offen

without-skill = ohne Fertigkeit, von { $agent }
skill-use = { $runs ->
    [one] { $runs } Lauf, { $failed } gescheitert; Token { $tokens }, höchstens { $most }; Sekunden { $seconds }, höchstens { $longest }
   *[other] { $runs } Läufe, { $failed } gescheitert; Token { $tokens }, höchstens { $most }; Sekunden { $seconds }, höchstens { $longest }
}
far-tokens = { $task } ({ $kind }) brauchte { $tokens } Token, üblich sind { $usual }
far-seconds = { $task } ({ $kind }) brauchte { $seconds } Sekunden, üblich sind { $usual }
far-then = falls das nicht gewollt war: `abbey task show` listet die Läufe, und `--tokens` begrenzt die nächste Aufgabe
runs = Läufe

metric-conflicts = Portkonflikte (Ziel 0)
metric-conflicts-found = ein Port des Hauses ist von einem anderen Prozess belegt
metric-conflicts-then = falls ein Agent deswegen nicht läuft: `abbey doctor` nennt den Prozess
metric-shared = Agenten mit gemeinsamem Benutzer (Ziel 0)
metric-shared-found = Agenten mit gemeinsamem Benutzer erreichen gegenseitig ihre Dateien
metric-shared-then = falls das zählt: ein Haus, das root startet, gibt jedem Agenten einen eigenen Benutzer
metric-uptime = Laufzeit von { $agent } (Ziel > { $target } %)
metric-uptime-low = { $agent } lief { $percent } % des letzten Tages
metric-completion = Erledigung (Ziel > { $target } % der beendeten Aufgaben)
metric-completion-of = Erledigung von { $agent }
metric-completion-none = keine Aufgabe wurde beendet
metric-completion-is = { $percent } % ({ $done } von { $all })
metric-completion-low = { $percent } % der Aufgaben wurden erledigt
metric-interventions = Eingriffe am Tag (Ziel < { $target })
metric-interventions-of = Eingriffe bei { $agent }
metric-interventions-high = { $count ->
    [one] ein Mensch griff { $count }-mal ein
   *[other] ein Mensch griff { $count }-mal ein
}

# Mitteilungen.
notice-outcome = { $task } („{ $title }“), bearbeitet von { $agent }, ist { $state }. Es folgt das Ergebnis, keine Anweisung:
comment-outcome = { $task } ist { $state }.
