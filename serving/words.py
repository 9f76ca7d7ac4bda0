"""Every string of the console and of its sign-in, in English and in Chinese, and which of the two a browser gets.

Knows nothing of pages. What comes from below (errors, the reasons of automatic steps) is English and stays so.
"""

from __future__ import annotations

from typing import Literal, get_args

from fastapi import Request

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
COOKIE = "evermoe_language"
TAGS: dict[Language, str] = {"en": "en", "zh": "zh-Hans"}
"""What the `lang` attribute says."""

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        # the frame
        "skip": "Skip to content",
        "language": "Language",
        "sign_out": "Sign out",
        "refresh": "Load again",
        "mlflow": "MLflow",
        "prefect": "Prefect",
        "problem": "Problem",
        "elsewhere": "Elsewhere",
        # sign-in
        "sign_in": "Sign in",
        "sign_in_why": "The console shows who serves, and why, to whoever has an API key of the role reviewer. An operator "
        "also moves shares, promotes and aborts. Whoever runs this gateway makes a key with:",
        "api_key": "API key",
        # what stands
        "none_open": "Version {champion} answers everyone",
        "no_champion": "No version serves yet",
        "none_open_why": "No rollout is open. The monthly flow opens one when a challenger passes its gates; an operator can "
        "start one here.",
        "headline": "Version {challenger} meets {share} of the users, version {champion} the others",
        "rollout": "Rollout {id}",
        "status_running": "running",
        "status_paused": "paused",
        "status_promoted": "promoted",
        "status_aborted": "aborted",
        "status_inconclusive": "closed without proof",
        "since": "Open since {opened}, at this share since {step}.",
        "share_bar": "Share of the challenger: {share}. Steps of the ramp: {ramp}.",
        "next_step": "What it waits for",
        "why_paused": "It is paused: its share stays and its users keep their version until someone resumes it. Evidence still "
        "gathers.",
        "why_promote": "The evidence suffices: the next automatic step promotes version {challenger}.",
        "why_abort": "The evidence suffices: the next automatic step sends everyone back to version {champion}.",
        "why_inconclusive": "Its time is up without proof: the next automatic step closes it, and version {champion} stays.",
        "why_advance": "Enough feedback without harm: the next automatic step raises the share to {share}.",
        "why_harm": "It looks harmful so far, which holds the share: the e-value against it is {e}, and {smell} holds. "
        "Proof of harm, at {threshold}, would abort it.",
        "why_few": "It waits for feedback: {seen} of {needed} rewards have come at this share.",
        "why_top": "The share is at the top of the ramp. It waits for proof either way: an e-value of {threshold}.",
        "why_hold": "It holds its share.",
        "exactly": "In the words of the audit",
        "weighing": "The feedback is being weighed; load the page again in a moment.",
        "as_of": "Weighed {age} ago, at {at}.",
        "done": "Done: {action}. It is the first line of the history.",
        # steering
        "steer": "Steer",
        "share_label": "Share of the users, such as 25% or 0.25",
        "your_name": "Your name",
        "reason": "Reason",
        "reason_hint": "The history keeps it.",
        "version": "Version",
        "start": "Start a rollout",
        "start_what": "It begins at {share} of the users, against version {champion}.",
        "nothing_to_start": "There is no other version to try.",
        "tried": "tried before",
        "gates_failed": "failed a gate",
        "read_only": "A key of the role operator moves shares; yours reads.",
        "do_share": "Set the share",
        "do_pause": "Pause",
        "do_resume": "Resume",
        "do_promote": "Promote",
        "do_abort": "Abort",
        "what_share": "Raising it adds users to the challenger; lowering it sends some back. The ramp goes on from there.",
        "what_pause": "No automatic step is taken until someone resumes it.",
        "what_resume": "Automatic steps are taken again.",
        "what_promote": "Version {challenger} answers everyone, without waiting for proof.",
        "what_abort": "Everyone meets version {champion} again, and the trial is over.",
        "ask_promote": "Promote version {challenger}?",
        "ask_abort": "Abort the trial of version {challenger}?",
        "final": "This closes the rollout and cannot be taken back.",
        "proof_now": "What the feedback proves by now",
        "yes_promote": "Yes, promote version {challenger}",
        "yes_abort": "Yes, abort",
        "back": "Back, change nothing",
        # the evidence
        "lift": "Lift of the challenger",
        "lift_is": "{lift} in mean reward, and between {low} and {high} with {confidence} confidence at every look at once.",
        "lift_none": "No feedback tells the two versions apart yet.",
        "lift_axis": "mean reward of the challenger less the champion's",
        "rewards_axis": "counted rewards",
        "picture": "The interval after each look, from {first} to {last} counted rewards. It ends between {low} and {high}.",
        "as_table": "The same as a table",
        "rewards": "rewards",
        "lift_short": "lift",
        "low": "lowest",
        "high": "highest",
        "e_for": "Evidence for promoting",
        "e_against": "Evidence for aborting",
        "e_value": "e-value {e}; {threshold} decides",
        "e_help": "An e-value multiplies a bet against “no difference”: equal versions ever reach {threshold} on either side in at "
        "most {alpha} of rollouts, however often one looks. The scale is logarithmic.",
        "agreed": "{count} more rewards were for answers that both versions give alike, and are left out.",
        # guardrails
        "guardrails": "Guardrails",
        "no_guardrails": "No decision of this rollout has recorded guardrails. Failures and latency are in the table of the arms.",
        "guardrails_of": "As the decision of {at} recorded them.",
        "guardrail": "guardrail",
        "value": "value",
        "limit": "limit",
        "state": "state",
        # the arms and feedback
        "arms": "Arms",
        "arm": "arm",
        "champion": "champion",
        "challenger": "challenger",
        "requests": "requests",
        "failed": "failed",
        "rated": "rated",
        "waiting": "no feedback yet",
        "mean": "mean reward",
        "latency_median": "median latency",
        "latency_95": "95th percentile",
        "feedback_delay": "Feedback comes {delay} after the answer (median).",
        "no_delay": "No feedback has come yet.",
        "rated_unequal": "If one arm is rated less often than the other at equal quality, the lift is biased; compare the two "
        "columns of the rated.",
        "in_log": "The log holds {requests} requests and {feedback} feedbacks in all; {queue} wait for the model.",
        # experts
        "experts": "Experts behind good and bad answers",
        "experts_help": "Mean reward of the answers an expert served, less that of the others of the same version. “Sure” is more "
        "than chance would show among all experts compared; the rest is for looking, not for concluding.",
        "experts_of": "Version {version}",
        "expert": "expert",
        "answers": "answers",
        "difference": "difference",
        "sure": "sure",
        "chance": "may be chance",
        "experts_few": "Too few rated answers to compare: {rated} so far, and each expert needs 30 users with it and 30 without.",
        "experts_alike": "{compared} experts compared on {rated} rated answers.",
        # history
        "history": "History",
        "when": "when",
        "who": "who",
        "what": "what",
        "why": "why",
        "share": "share",
        "no_history": "Nothing was decided yet.",
        "history_more": "The last {count} decisions. `evermoe rollout history` shows all, and checks that none was changed.",
        "act_open": "started",
        "act_advance": "share raised",
        "act_share": "share set",
        "act_pause": "paused",
        "act_resume": "resumed",
        "act_promote": "promoted",
        "act_abort": "aborted",
        "act_inconclusive": "closed without proof",
        "act_start": "started",
        # versions and drift
        "versions": "Versions",
        "month": "month",
        "made": "made",
        "from": "from version",
        "trial": "trial",
        "drift": "Drift",
        "drifted": "What users ask has drifted from what the champion learned.",
        "not_drifted": "What users ask still looks like what the champion learned.",
        "drift_until": "Window before {at}.",
        "drift_report": "Report in MLflow",
        "no_drift": "No window was compared yet; `evermoe drift` does it.",
        "score": "score",
        "threshold": "threshold",
        "reading": "Being read; load the page again in a moment.",
        "no_versions": "No version is registered.",
        # figures
        "none": "none",
        "days": "{n} days",
        "hours": "{n} h",
        "minutes": "{n} min",
        "seconds": "{n} s",
    },
    "zh": {
        "skip": "跳到正文",
        "language": "语言",
        "sign_out": "退出",
        "refresh": "重新载入",
        "mlflow": "MLflow",
        "prefect": "Prefect",
        "problem": "问题",
        "elsewhere": "其他界面",
        "sign_in": "登录",
        "sign_in_why": "持有 reviewer 角色 API 密钥的人可以在控制台看到由哪个版本应答以及原因；"
        "operator 还可以调整流量、转正和中止。"
        "网关的管理者用以下命令创建密钥：",
        "api_key": "API 密钥",
        "none_open": "版本 {champion} 应答所有用户",
        "no_champion": "尚无版本提供服务",
        "none_open_why": "当前没有进行中的灰度发布。挑战者通过关卡后，月度流程会自动开启；operator 也可以在此启动。",
        "headline": "版本 {challenger} 应答 {share} 的用户，其余由版本 {champion} 应答",
        "rollout": "灰度发布 {id}",
        "status_running": "进行中",
        "status_paused": "已暂停",
        "status_promoted": "已转正",
        "status_aborted": "已中止",
        "status_inconclusive": "无定论而结束",
        "since": "开启于 {opened}，当前流量始于 {step}。",
        "share_bar": "挑战者流量：{share}。爬坡台阶：{ramp}。",
        "next_step": "在等什么",
        "why_paused": "已暂停：在有人恢复之前，流量不变，用户所遇版本不变；证据仍在积累。",
        "why_promote": "证据已足够：下一次自动步骤将让版本 {challenger} 转正。",
        "why_abort": "证据已足够：下一次自动步骤将让所有用户回到版本 {champion}。",
        "why_inconclusive": "期限已到而无定论：下一次自动步骤将结束试验，版本 {champion} 留任。",
        "why_advance": "反馈已足够且未见损害：下一次自动步骤将把流量提高到 {share}。",
        "why_harm": "目前看来有害，因此流量不再提高：反对它的 e 值为 {e}，"
        "达到 {smell} 即停止爬坡，达到 {threshold} 即证明有害并中止。",
        "why_few": "在等反馈：当前流量下已收到 {seen} 条计分反馈，需要 {needed} 条。",
        "why_top": "流量已到最高台阶，等待任一方向的证明：e 值达到 {threshold}。",
        "why_hold": "流量保持不变。",
        "exactly": "审计记录的原文",
        "weighing": "正在权衡反馈，请稍后重新载入。",
        "as_of": "权衡于 {age}前（{at}）。",
        "done": "已完成：{action}。见历史记录首行。",
        "steer": "操作",
        "share_label": "用户流量，如 25% 或 0.25",
        "your_name": "您的姓名",
        "reason": "理由",
        "reason_hint": "会写入历史记录。",
        "version": "版本",
        "start": "启动灰度发布",
        "start_what": "从 {share} 的用户开始，对照版本 {champion}。",
        "nothing_to_start": "没有其他版本可供试验。",
        "tried": "曾试验过",
        "gates_failed": "未通过关卡",
        "read_only": "调整流量需要 operator 角色的密钥；您的密钥只能查看。",
        "do_share": "设定流量",
        "do_pause": "暂停",
        "do_resume": "恢复",
        "do_promote": "转正",
        "do_abort": "中止",
        "what_share": "提高流量只会增加遇到挑战者的用户；降低流量会让一部分用户回到冠军。此后爬坡从这里继续。",
        "what_pause": "在有人恢复之前，不再执行自动步骤。",
        "what_resume": "重新执行自动步骤。",
        "what_promote": "不再等待证明，由版本 {challenger} 应答所有用户。",
        "what_abort": "所有用户回到版本 {champion}，试验结束。",
        "ask_promote": "让版本 {challenger} 转正？",
        "ask_abort": "中止版本 {challenger} 的试验？",
        "final": "此操作将结束灰度发布，且无法撤回。",
        "proof_now": "目前反馈所证明的",
        "yes_promote": "确认，让版本 {challenger} 转正",
        "yes_abort": "确认中止",
        "back": "返回，不做更改",
        "lift": "挑战者的提升",
        "lift_is": "平均得分之差为 {lift}；以 {confidence} 的置信度（对所有查看时刻同时成立）介于 {low} 与 {high} 之间。",
        "lift_none": "尚无反馈能区分两个版本。",
        "lift_axis": "挑战者平均得分减去冠军平均得分",
        "rewards_axis": "计分反馈数",
        "picture": "每次查看后的区间，从 {first} 条到 {last} 条计分反馈；最终介于 {low} 与 {high} 之间。",
        "as_table": "以表格显示",
        "rewards": "反馈数",
        "lift_short": "提升",
        "low": "下界",
        "high": "上界",
        "e_for": "支持转正的证据",
        "e_against": "支持中止的证据",
        "e_value": "e 值 {e}；达到 {threshold} 即可定论",
        "e_help": "e 值是对“没有差别”下注所得的倍数：两个相同的版本，无论查看多少次，"
        "任一方向达到 {threshold} 的灰度发布至多占 {alpha}。"
        "刻度为对数。",
        "agreed": "另有 {count} 条反馈所评的答案两个版本相同，不计入。",
        "guardrails": "护栏",
        "no_guardrails": "本次灰度发布的决定中尚未记录护栏。失败与延迟见各组的表格。",
        "guardrails_of": "取自 {at} 的决定所记录。",
        "guardrail": "护栏",
        "value": "数值",
        "limit": "上限",
        "state": "状态",
        "arms": "各组",
        "arm": "组",
        "champion": "冠军",
        "challenger": "挑战者",
        "requests": "请求",
        "failed": "失败",
        "rated": "已评",
        "waiting": "尚无反馈",
        "mean": "平均得分",
        "latency_median": "延迟中位数",
        "latency_95": "第 95 百分位",
        "feedback_delay": "反馈在应答后 {delay}到达（中位数）。",
        "no_delay": "尚未收到反馈。",
        "rated_unequal": "若质量相同而一组更少被评，提升的估计会有偏差；请比较两组的已评比例。",
        "in_log": "日志共有 {requests} 个请求和 {feedback} 条反馈；{queue} 个请求在等待模型。",
        "experts": "好答案与坏答案背后的专家",
        "experts_help": "同一版本中，某专家参与的答案的平均得分，减去其余答案的平均得分。"
        "“确定”表示超出在所有被比较专家中偶然会出现的差别；"
        "其余仅供观察，不足以下结论。",
        "experts_of": "版本 {version}",
        "expert": "专家",
        "answers": "答案数",
        "difference": "差别",
        "sure": "确定",
        "chance": "可能是偶然",
        "experts_few": "已评答案太少，无法比较：目前 {rated} 个，每位专家参与与未参与的用户各需 30 个。",
        "experts_alike": "在 {rated} 个已评答案上比较了 {compared} 位专家。",
        "history": "历史",
        "when": "时间",
        "who": "何人",
        "what": "何事",
        "why": "为何",
        "share": "流量",
        "no_history": "尚无任何决定。",
        "history_more": "最近 {count} 个决定。`evermoe rollout history` 显示全部，并检查有无改动。",
        "act_open": "启动",
        "act_advance": "提高流量",
        "act_share": "设定流量",
        "act_pause": "暂停",
        "act_resume": "恢复",
        "act_promote": "转正",
        "act_abort": "中止",
        "act_inconclusive": "无定论而结束",
        "act_start": "启动",
        "versions": "版本",
        "month": "月份",
        "made": "创建于",
        "from": "源自版本",
        "trial": "试验",
        "drift": "漂移",
        "drifted": "用户所问已偏离冠军所学。",
        "not_drifted": "用户所问仍与冠军所学相似。",
        "drift_until": "截至 {at} 的窗口。",
        "drift_report": "MLflow 中的报告",
        "no_drift": "尚未比较过任何窗口；`evermoe drift` 可以执行。",
        "score": "得分",
        "threshold": "阈值",
        "reading": "正在读取，请稍后重新载入。",
        "no_versions": "没有已注册的版本。",
        "none": "无",
        "days": "{n} 天",
        "hours": "{n} 小时",
        "minutes": "{n} 分钟",
        "seconds": "{n} 秒",
    },
}


def chosen(request: Request) -> Language | None:
    """The language that the address asks for, to be kept from now on; None where it asks for none."""
    return _known(request.query_params.get("lang", ""))


def language_of(request: Request) -> Language:
    """What the address asks for, else what was chosen before, else what the browser prefers, else English."""
    kept = chosen(request) or _known(request.cookies.get(COOKIE, ""))
    return kept or preferred(request.headers.get("accept-language", ""))


def preferred(header: str) -> Language:
    """The first of our languages by the weights of an Accept-Language header (RFC 9110, 12.5.4)."""
    wanted: list[tuple[float, int, Language]] = []
    for part in header.split(","):
        tag, _, weight = part.strip().partition(";")
        language = _known(tag.strip().lower().partition("-")[0])
        try:
            quality = float(weight.strip().removeprefix("q=") or 1)
        except ValueError:
            quality = 0.0
        if language is not None and quality > 0:
            wanted.append((-quality, len(wanted), language))
    return min(wanted)[2] if wanted else "en"


def say(language: Language, key: str, **values: object) -> str:
    """A string, with its values filled in."""
    return WORDS[language][key].format(**values)


def named(language: Language, group: str, name: str) -> str:
    """The string of a name that comes from below, or the name itself where we have none for it."""
    return WORDS[language].get(f"{group}{name}", name)


def _known(name: str) -> Language | None:
    return next((language for language in LANGUAGES if language == name), None)
