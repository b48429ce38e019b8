"""What the emitter says: for each kind of text, 256 tokens split the way tokenizers split.

Exactly 256, so that one random byte picks a token without bias. Words carry their leading space, code has newlines,
indentation, quotes and braces (which JSON escapes), Chinese tokens are one to three characters (three bytes each), and
emoji include skin tones, flags and sequences joined by U+200D, up to 28 bytes for what the eye takes as one character.
"""

from __future__ import annotations

SIZE = 256

_ENGLISH = (
    " the| of| and| to| a| in| is| that| for| it| as| with| be| on| are| by| this| you| can| from| or| at| an|"
    " not| will| have| if| more| which| their| when| use| but| your| one| all| also| we| has| each| how| other|"
    " these| may| time| some| used| into| most| than| them| its| what| between| two| such| only| so| up| about|"
    " any| first| there| make| like| out| do| then| over| new| no| need| while| data| because| work| different|"
    " many| through| way| example| they| set| would| after| same| where| both| number| system| should| important|"
    " before| high| model| help| value| could| well| being| point| long| even| however| small| part| using|"
    " without| large| process| often| just| might| case| result| much| people| those| must| given| very| based|"
    " start| change| specific| function| order| know| take| good| include| possible| level| side| local| within|"
    " end| keep| common| full| line| form| cost| since| less| still| single| until| reason| simple| answer|"
    " question| several| server| client| message| stream| network| second| short| follow| consider| likely|"
    " across| instead| memory| measure| latency| provide| understand| connection|ing|ed|s|ly|er|tion|ment|al|"
    "ness|able|un|re|pre|In|The|A|It|This|For|If|When|However|To|You|We|There|Here|As|But|First|Finally|,|.|:|;|"
    "?|!|-| (|)|).| \"|\"|.\"|,\"|'s|'t|'re|n't| –| —|...|\n|\n\n|\n- |\n1|\n2|\n3| 1| 2| 3| 10| 100|0|5|%| $|/|"
    "**| **|:**| `|`|##| #| &| +| =| whether| read| write| token| tokens| every| under"
)

_CHINESE = (
    "的|是|在|了|和|有|不|这|我|人|他|们|中|大|来|上|国|个|到|说|为|子|你|地|出|道|也|时|年|得|就|那|要|下|以|生|"
    "会|自|着|去|之|过|家|学|对|里|后|小|么|心|多|天|而|能|好|都|然|没|日|于|起|还|发|成|事|只|作|当|想|看|文|无|"
    "开|手|十|用|主|行|方|又|如|前|所|本|见|经|头|面|公|同|三|已|老|从|动|两|长|知|民|样|现|分|将|外|但|身|些|与|"
    "高|意|进|把|法|此|实|回|二|理|美|点|月|明|其|种|声|全|工|己|话|儿|者|向|情|部|正|名|定|女|问|力|机|给|等|几|"
    "很|业|最|间|新|打|便|位|因|重|被|走|电|四|第|门|相|次|东|政|海|口|使|教|西|再|平|真|听|世|气|信|北|少|关|并|"
    "内|加|化|由|却|代|军|产|一个|我们|可以|什么|问题|时间|系统|网络|服务器|数据|因为|所以|如果|但是|没有|自己|"
    "他们|知道|现在|使用|需要|开始|接口|消息|连接|延迟|流式|浏览器|协议|客户端|测量|结果|以及|或者|非常|应该|"
    "能够|进行|通过|其他|方法|工作|之间|的时候|不同|一般|重要|情况|分析|例如|首先|其次|最后|总之|模型|，|。|、|"
    "：|；|？|！|“|”|（|）|《|》"
)

_CODE = (
    "def¦ def¦class¦ class¦return¦ return¦import¦import ¦ import¦from¦from ¦ if¦if¦ else¦else¦elif¦ elif¦ for¦"
    "for¦ in¦ not¦ and¦ or¦ is¦ None¦ True¦ False¦ lambda¦ yield¦ await¦await¦async¦ async¦ with¦with¦while¦"
    " while¦try¦except¦ except¦finally¦ raise¦ as¦ pass¦self¦self.¦ self¦cls¦__init__¦__name__¦__main__¦ int¦"
    " str¦ bytes¦ list¦ dict¦ float¦ bool¦ len¦(len¦ range¦(range¦print¦(print¦ open¦append¦.append¦.get¦.items¦"
    ".join¦.split¦.strip¦.format¦.encode¦.decode¦\n¦\n\n¦\n\n\n¦\n    ¦\n        ¦\n            ¦"
    "\n                ¦    ¦        ¦\t¦\t\t¦\n\t¦\n\t\t¦\r\n¦ ¦(¦)¦()¦((¦))¦):¦)\n¦)\n\n¦):\n¦);¦);\n¦[¦]¦[]¦"
    '[0¦[-¦]]¦]:¦{¦}¦{}¦ {¦ }¦{\n¦}\n¦},¦},\n¦};¦});¦});\n¦,¦, ¦,\n¦.¦:¦:\n¦;¦;\n¦==¦ ==¦=¦ =¦="¦ +=¦ -=¦ *¦ **¦'
    " +¦ -¦ /¦ //¦ %¦ <¦ >¦ <=¦ >=¦ !=¦ =>¦ ->¦ :=¦ &&¦ ||¦!¦&¦ &¦|¦ |¦^¦~¦@¦#¦ #¦# ¦//¦/*¦*/¦\"¦'¦\"\"\"¦'''¦"
    ' "¦ \'¦",¦\',¦")¦\')¦"]¦\']¦":¦": ¦"\n¦\\n¦\\t¦\\\\¦\\"¦f"¦r"¦b"¦{i¦_¦__¦_id¦_name¦_count¦_size¦'
    "_list¦_ns¦_ms¦i¦j¦k¦n¦x¦y¦key¦value¦name¦index¦item¦items¦data¦path¦file¦line¦text¦token¦result¦config¦"
    "request¦response¦client¦server¦error¦Error¦ValueError¦Exception¦TypeError¦const¦ const¦let¦let ¦ var¦"
    "function¦ function¦public¦ public¦ static¦ void¦ new¦this¦this.¦null¦true¦false¦undefined¦=>¦0¦1¦2¦3¦10¦16¦"
    "64¦100¦255¦1024"
)

_EMOJI = (
    "😀|😃|😄|😁|😆|😅|😂|🤣|🥲|☺️|😊|😇|🙂|🙃|😉|😌|😍|🥰|😘|😗|😋|😛|😝|😜|🤪|🤨|🧐|🤓|😎|🥸|🤩|🥳|😏|😒|😞|"
    "😔|😟|😕|🙁|☹️|😣|😖|😫|😩|🥺|😢|😭|😤|😠|😡|🤬|🤯|😳|🥵|🥶|😱|😨|😰|😥|😓|🤗|🤔|🫣|🤭|🫡|🤫|🫠|🤥|😶|🫥|"
    "😐|😑|😬|🙄|😯|😦|😧|😮|😲|🥱|😴|🤤|😪|😵|🤐|🥴|🤢|🤮|🤧|😷|🤒|🤕|🤑|🤠|😈|👿|👻|💀|👽|🤖|🎃|😺|👋|🤚|✋|🖖|"
    "👌|🤌|✌️|🤞|🤟|🤘|🤙|👈|👉|👆|👇|☝️|👍|👎|✊|👊|👏|🙌|🫶|👐|🤲|🤝|🙏|👍🏻|👍🏼|👍🏽|👍🏾|👍🏿|👋🏽|🙏🏿|"
    "👏🏻|💪🏾|✍️|💪|🦾|🧠|👀|👁️|👅|👄|👶|🧒|👧|🧑|👨|👩|🧓|👴|👵|👨‍👩‍👧|👨‍👩‍👧‍👦|👩‍👩‍👦|👨‍👨‍👧‍👧|"
    "👩‍❤️‍👨|👩‍❤️‍💋‍👩|👩‍💻|👨‍💻|🧑‍🚀|👩‍🔬|👨‍🍳|👩‍🚒|🧑‍🎤|👩🏽‍💻|👨🏿‍🚀|🧑🏻‍🔧|🏃‍♀️|🏃‍♂️|"
    "🤷‍♀️|🤷‍♂️|🤦‍♀️|🙋‍♂️|🧘‍♀️|🏳️‍🌈|🏳️‍⚧️|🏴‍☠️|🇫🇷|🇩🇪|🇯🇵|🇺🇸|🇬🇧|🇧🇷|🇮🇳|🇨🇳|🇰🇷|"
    "🇮🇹|🇪🇸|🇨🇦|🇲🇽|🇸🇪|🇺🇦|🇿🇦|🏴󠁧󠁢󠁳󠁣󠁴󠁿|🐶|🐱|🐭|🐹|🐰|🦊|🐻|🐼|🐻‍❄️|🐨|🐯|🦁|🐈‍⬛|🐦‍🔥|🍏|🍎|"
    "🍋|🍋‍🟩|🍌|🍉|🍇|🍓|🚀|✈️|🚗|⚽|🎉|🎵|❤️|🧡|💛|💚|💙|💜|🖤|❤️‍🔥|❤️‍🩹|💔|✨|⭐|🔥|💯|✅|❌|⚠️|1️⃣|2️⃣|"
    "#️⃣|©️|™️|♻️|🌍|🌈|🌧️|☀️|🌙|⛄|🍕"
)

VOCABULARIES: dict[str, tuple[str, ...]] = {
    "english": tuple(_ENGLISH.split("|")),
    "chinese": tuple(_CHINESE.split("|")),
    "code": tuple(_CODE.split("¦")),
    "emoji": tuple(_EMOJI.split("|")),
}
"""Token texts by the name a profile gives in `text`."""
VOCABULARIES["mixed"] = (
    *VOCABULARIES["english"][:96],
    *VOCABULARIES["chinese"][180:244],
    *VOCABULARIES["code"][72:136],
    *VOCABULARIES["emoji"][124:156],
)
