//! Words that requests are read by: courtesies, and what the guards look for. In English, German, Russian, Slovenian and Chinese, and a few in French, Spanish and Italian.
//! Scripts without blanks between words have lists of their own, whose entries are found anywhere in a text.

use std::sync::OnceLock;

/// Words or phrases in lower case.
pub(super) struct WordList {
    text: &'static str,
    split: OnceLock<Vec<&'static str>>,
}

impl WordList {
    const fn new(text: &'static str) -> WordList {
        WordList {
            text,
            split: OnceLock::new(),
        }
    }

    /// The entries, in their order.
    pub(super) fn entries(&self) -> &[&'static str] {
        self.split.get_or_init(|| self.text.split(", ").collect())
    }

    /// Whether this is one of them.
    pub(super) fn has(&self, word: &str) -> bool {
        self.entries().contains(&word)
    }
}

/// Negations.
pub(super) static NEGATIONS: WordList = WordList::new(
    "not, don't, dont, doesn't, didn't, isn't, aren't, wasn't, won't, wouldn't, can't, cannot, couldn't, shouldn't, \
    shan't, mustn't, mayn't, needn't, haven't, never, no, none, nobody, nothing, neither, nor, without, avoid, stop, \
    refrain, forbidden, prohibited, instead, except, unless, rather, prevent, cancel, abort, skip, anything, nicht, \
    nie, niemals, kein, keine, keinen, keinem, keiner, keines, ohne, niemand, nichts, verboten, statt, anstatt, \
    vermeide, lass, nein, не, нет, нельзя, никогда, никто, ничего, ни, без, вместо, запрещено, отмени, хватит, ne, \
    ni, nikoli, nikar, nikdar, niti, brez, nihče, nič, namesto, prepovedano, prekliči, nehaj, pas, jamais, sans, \
    non, nunca, sin, mai, senza, kidding, leave, forget, joking, keinesfalls, keineswegs, nikakor, никак",
);

/// Negations in scripts without blanks.
pub(super) static NEGATIONS_JOINED: WordList =
    WordList::new("不, 别, 勿, 没, 无需, 禁止, 避免, 停止, 取消, 莫, 未");

/// Words that begin a question about a thing; they hold back whatever the skill does.
pub(super) static ABOUT_BEGINNINGS: WordList = WordList::new(
    "why, explain, describe, define, how to, how do i, how do you, how do we, how does, how can, how could, how \
    should, how would, how did, how long would, what happens, what would, what does, what if, what is a, what is an, \
    what's a, what are, what do you, should, is it safe, is it, is there a way, would it, who wrote, tell me about, \
    tell me how, tell me why, teach, warum, wieso, weshalb, wozu, erkläre, erklär, beschreibe, wie kann, wie macht, \
    wie mache, wie geht, was heißt, was bedeutet, was passiert, was ist ein, soll, sollte, sollen, почему, зачем, \
    объясни, опиши, как сделать, как мне, как можно, что такое, что значит, что будет, стоит ли, zakaj, čemu, \
    razloži, pojasni, opiši, kako naj, kako se, kaj je, kaj pomeni, kaj se zgodi, ali naj, pourquoi, que veut dire, \
    por qué",
);

/// Signs of a question about a thing in scripts without blanks.
pub(super) static ABOUT_JOINED: WordList =
    WordList::new("为什么, 怎么, 如何, 解释, 什么是, 是什么, 应该, 会怎样");

/// Words that begin any question; they hold back what changes something.
pub(super) static QUESTION_BEGINNINGS: WordList = WordList::new(
    "who, whose, whom, what, what's, when, where, which, how, is, are, am, was, were, did, does, has, have, had, can, \
    could, should, would, will, may, might, must, shall, do you, do we, do i, do they, wer, was, wann, wo, welche, \
    welcher, welches, wie, ist, sind, war, waren, hat, haben, kann, können, darf, muss, wird, würde, кто, что, \
    когда, где, какой, какая, какие, как, можно ли, нужно ли, сколько, kdo, kaj, kdaj, kje, kateri, katera, katere, \
    kako, ali, je, so, koliko, lahko, que, qui, est-ce",
);

/// Signs of a question in scripts without blanks.
pub(super) static QUESTION_JOINED: WordList =
    WordList::new("吗, 什么, 谁, 是否, 能否, 可否, 几, 多少, 哪, 呢");

/// Words of conditions.
pub(super) static CONDITIONS: WordList = WordList::new(
    "if, whenever, until, till, once, suppose, supposing, imagine, assuming, assume, hypothetically, provided, \
    otherwise, unless, case, maybe, perhaps, wenn, falls, sofern, sobald, bis, angenommen, vielleicht, если, \
    допустим, представь, пока, может, če, ko, recimo, denimo, dokler, morda, mogoče, si, fails",
);

/// Words of conditions in scripts without blanks.
pub(super) static CONDITIONS_JOINED: WordList =
    WordList::new("如果, 假如, 要是, 万一, 假设, 除非, 直到, 也许, 的话");

/// Words after which another request follows.
pub(super) static SEVERAL: WordList = WordList::new(
    "then, afterwards, after, before, additionally, subsequently, danach, anschließend, dann, vorher, потом, затем, \
    после, nato, potem, zatem, puis, ensuite",
);

/// Words after which another request follows, in scripts without blanks.
pub(super) static SEVERAL_JOINED: WordList = WordList::new("然后, 之后, 接着, 并且, 再, 以后");

/// Conjunctions.
pub(super) static CONJUNCTIONS: WordList =
    WordList::new("and, or, plus, und, oder, и, или, in, ter, et, y");

/// Verbs of requests: after a conjunction they begin another one.
pub(super) static VERBS: WordList = WordList::new(
    "restart, reboot, start, stop, back, backup, vacuum, migrate, apply, restore, merge, tag, mirror, search, grep, \
    show, list, tell, write, give, make, take, create, check, run, delete, remove, drop, send, explain, let, report, \
    summarise, summarize, translate, post, publish, email, mail, clean, tidy, update, install, kill, shut, open, \
    close, read, fetch, pull, push, deploy, inform, notify, call, print, do, starte, stoppe, mach, mache, sichere, \
    lösche, zeig, zeige, schreib, schreibe, sag, sage, schick, prüfe, перезапусти, сделай, удали, покажи, напиши, \
    скажи, отправь, проверь, zaženi, naredi, izbriši, pokaži, napiši, povej, pošlji, preveri, ustavi",
);

/// Words of times other than now.
pub(super) static TIMES: WordList = WordList::new(
    "every, each, daily, hourly, weekly, monthly, tomorrow, tonight, later, soon, monday, tuesday, wednesday, \
    thursday, friday, saturday, sunday, mondays, fridays, o'clock, midnight, noon, next, yesterday, ago, morgen, \
    täglich, jede, jeden, jedes, später, gestern, montag, завтра, каждый, каждую, ежедневно, вчера, позже, jutri, \
    vsak, vsako, dnevno, včeraj, kasneje, pozneje, someday, sometime, eventually, evening, overmorrow, übermorgen, \
    abends, abend, feierabend, nachher, вечером, утром, послезавтра, потом, через, zvečer, zjutraj, pojutrišnjem, \
    čez, nekoč",
);

/// Words of times other than now in scripts without blanks.
pub(super) static TIMES_JOINED: WordList =
    WordList::new("明天, 每天, 每周, 昨天, 稍后, 以前, 晚上");

/// Words of texts about a request.
pub(super) static ABOUT: WordList = WordList::new(
    "said, says, say, saying, wrote, writes, reads, asked, told, ignore, disregard, pretend, roleplay, story, poem, \
    novel, haiku, essay, letter, email, joke, sentence, phrase, word, words, quote, translate, translation, \
    summarise, summarize, summary, rephrase, paraphrase, aloud, example, metaphor, title, slogan, logo, sagte, \
    schrieb, übersetze, gedicht, geschichte, satz, wort, zusammenfassung, ignoriere, сказал, сказала, написал, \
    переведи, стих, стихотворение, рассказ, слово, предложение, игнорируй, rekel, rekla, napisal, prevedi, pesem, \
    zgodba, stavek, beseda, prezri, traduis, traduce",
);

/// Words of texts about a request in scripts without blanks.
pub(super) static ABOUT_TEXT_JOINED: WordList =
    WordList::new("翻译, 写一首, 故事, 诗, 他说, 她说, 忽略, 假装, 句子, 总结");

/// Courtesies before a request that are questions by their form, in lower case, the longer before the shorter.
pub(super) static QUESTIONS_BEFORE: WordList = WordList::new(
    "could you please, can you please, would you please, will you please, could you, can you, would you, will you, \
    könntest du bitte, kannst du bitte, können sie bitte, könnten sie bitte, könntest du, kannst du, können sie, \
    könnten sie, lahko prosim, ali lahko",
);

/// Other courtesies before a request, in lower case.
pub(super) static COURTESIES_BEFORE: WordList = WordList::new(
    "i would like you to, i'd like you to, i want you to, i need you to, please, kindly, hey abbey, hello, hey, hi, \
    ok, okay, bitte, hallo, prosim, živjo, пожалуйста, привет",
);

/// Courtesies before a request in scripts without blanks.
pub(super) static COURTESIES_BEFORE_JOINED: WordList =
    WordList::new("麻烦你, 麻烦, 请帮我, 请你, 请, 帮我");

/// Courtesies after a request, in lower case.
pub(super) static COURTESIES_AFTER: WordList = WordList::new(
    "please, thank you, thanks, for me, right now, right away, now, bitte, danke, jetzt, sofort, prosim, hvala, zdaj, \
    takoj, пожалуйста, спасибо, сейчас",
);

/// Courtesies after a request in scripts without blanks.
pub(super) static COURTESIES_AFTER_JOINED: WordList = WordList::new("谢谢, 一下, 吧");
